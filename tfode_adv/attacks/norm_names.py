"""The norms that attacks measure in, by name; `norms.py` says what each is."""

NORMS = ("linf", "l2", "l2rms")
