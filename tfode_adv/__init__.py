"""Neural-ODE image classifiers in Keras, and the tools that tell whether their robustness is real.

import tfode_adv as ta
model = ta.models.build("oon", input_shape=(28, 28, 1), num_classes=10)
ta.attacks.PGD(norm="linf", eps=0.1, step_size=0.05, steps=10)(model, x, y)
"""

import importlib

from tfode_adv import startup

startup.check_backend()

# Keras reads a saved model only if the classes in it are registered, that is, imported.
with startup.quiet():
    from tfode_adv import layers, models, solvers, training

__version__ = "0.2.0"

_ON_DEMAND = ("analysis", "attacks", "data", "diagnosis", "interop", "published", "reports", "run_folder", "zoo")

__all__ = ["layers", "models", "solvers", "training", *_ON_DEMAND]  # noqa: PLE0604


def __getattr__(name: str):
    if name in _ON_DEMAND:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "__doc__"])
