"""`python -m benchmarks`: the solvers side by side. The attacks need a trained run: `python benchmarks/attacks.py`."""

from benchmarks.solvers import main

if __name__ == "__main__":
    main()
