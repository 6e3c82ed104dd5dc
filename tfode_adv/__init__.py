"""Neural-ODE image classifiers in Keras, and the tools that tell whether their robustness is real.

import tfode_adv as ta
model = ta.models.build("oon", input_shape=(28, 28, 1), num_classes=10)
ta.attacks.PGD(norm="linf", eps=0.1, step_size=0.05, steps=10)(model, x, y)
"""

from typing import TYPE_CHECKING

from tfode_adv import on_demand, registration, startup

if TYPE_CHECKING:
    from tfode_adv import (
        analysis,
        attacks,
        data,
        diagnosis,
        errors,
        interop,
        layers,
        models,
        published,
        reports,
        run_folder,
        solvers,
        training,
        zoo,
    )

startup.check_backend()
registration.register_with_keras()

__version__ = "0.2.0"

__all__ = [
    "analysis",
    "attacks",
    "data",
    "diagnosis",
    "errors",
    "interop",
    "layers",
    "models",
    "published",
    "reports",
    "run_folder",
    "solvers",
    "training",
    "zoo",
]

__getattr__, __dir__ = on_demand.filled(__name__)
