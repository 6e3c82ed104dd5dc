"""Asking a model whether its robustness is real: the work, the document, its figures."""
