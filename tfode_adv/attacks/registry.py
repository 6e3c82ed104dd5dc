"""Attacks by name: what each is, as data, so that who asks what there is need not wait for the attacks themselves."""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfode_adv.attacks.norm_names import NORMS
from tfode_adv.errors import UsageError, check_choice

if TYPE_CHECKING:
    from tfode_adv.attacks.base import Attack

REQUIRED = "required"


@dataclasses.dataclass(frozen=True)
class Description:
    """What is to be known of an attack: one line, its norms, its hyperparameters and their defaults.

    `home` says where its class is: the module of this package, and the name in it.
    """

    name: str
    home: str = dataclasses.field(repr=False)
    summary: str
    norms: tuple[str, ...]
    defaults: Mapping[str, object]

    def __str__(self) -> str:
        defaults = ", ".join(f"{name}={value}" for name, value in self.defaults.items())
        return f"{self.name}: {self.summary}\n    norms: {', '.join(self.norms)}\n    {defaults}"


# Within a ball, and as near as possible; the order is that of the classes' fields.
_BALL = {"norm": "linf", "eps": REQUIRED, "seed": 0, "batch_size": None}
_NEAREST = _BALL | {"eps": None}
_EUCLIDEAN = _NEAREST | {"norm": "l2"}
_STEEPEST = {"targeted": False, "early_stop": True, "restarts": 1, "random_start": False, "source": None}
_PGD = _BALL | _STEEPEST | {"step_size": None, "steps": 10}
_AGAIN = {"restarts": 1, "source": None}
_TARGETS = {"targets": 9}

# A test holds them against the classes.
ATTACKS = {
    each.name: each
    for each in (
        Description("fgsm", "pgd.FGSM", "fast gradient method (Goodfellow et al. 2015)", NORMS, _BALL | _STEEPEST),
        Description(
            "bim",
            "pgd.BIM",
            "basic iterative method (Kurakin et al. 2017), PGD as Foolbox 1.8 and WIFS 2019 have it",
            NORMS,
            _PGD,
        ),
        Description("pgd", "pgd.PGD", "projected gradient descent (Madry et al. 2018)", NORMS, _PGD),
        Description("mim", "mim.MIM", "momentum iterative method (Dong et al. 2018)", NORMS, _PGD | {"decay": 1.0}),
        Description(
            "cw",
            "cw.CWL2",
            "Carlini and Wagner's smallest Euclidean perturbation (2017)",
            ("l2", "l2rms"),
            _EUCLIDEAN
            | {"targeted": False, "source": None, "confidence": 0.0, "learning_rate": 0.005, "steps": 1000}
            | {"binary_search_steps": 5, "initial_const": 0.01, "abort_early": True},
        ),
        Description(
            "cwlinf",
            "cw.CWLinf",
            "Carlini and Wagner's margin within a shrinking bound (MSML 2021)",
            ("linf",),
            _NEAREST
            | {
                "targeted": False,
                "source": None,
                "confidence": 0.0,
                "learning_rate": 0.01,
                "steps": 100,
                "shrink": 0.9,
            },
        ),
        Description(
            "spsa",
            "spsa.SPSA",
            "gradient-free, estimates from random differences (Uesato et al. 2018)",
            NORMS,
            _BALL
            | {"targeted": False, "early_stop": True, "restarts": 1, "steps": 100, "samples": 128, "estimates": 1}
            | {"delta": 0.01, "learning_rate": 0.01},
        ),
        Description(
            "deepfool",
            "foolbox.DeepFool",
            "nearest linearised boundary (Moosavi-Dezfooli et al. 2016), by Foolbox",
            ("l2", "l2rms", "linf"),
            _EUCLIDEAN | {"source": None, "steps": 50, "overshoot": 0.02, "candidates": 10},
        ),
        Description(
            "boundary",
            "foolbox.Boundary",
            "decisions only: walk along the boundary (Brendel et al. 2018), by Foolbox",
            ("l2", "l2rms"),
            _EUCLIDEAN | {"steps": 5000},
        ),
        Description(
            "hopskipjump",
            "foolbox.HopSkipJump",
            "decisions only: estimated gradients (Chen et al. 2020), by Foolbox",
            ("l2", "l2rms", "linf"),
            _EUCLIDEAN | {"steps": 64},
        ),
        Description(
            "apgd",
            "apgd.APGD",
            "Auto-PGD, step size set by progress (Croce and Hein 2020)",
            NORMS,
            _BALL | _AGAIN | {"steps": 100, "loss": "ce"} | _TARGETS,
        ),
        Description(
            "apgd_dlr",
            "apgd.APGDDLR",
            "Auto-PGD on the difference of logits ratio",
            NORMS,
            _BALL | _AGAIN | {"steps": 100} | _TARGETS,
        ),
        Description(
            "apgd_t",
            "apgd.APGDT",
            "Auto-PGD on the targeted difference of logits ratio",
            NORMS,
            _BALL | _AGAIN | {"steps": 100} | _TARGETS,
        ),
        Description(
            "fab",
            "fab.FAB",
            "fast adaptive boundary, minimal perturbations (Croce and Hein 2020)",
            NORMS,
            _NEAREST | {"source": None, "steps": 100} | _TARGETS | {"overshoot": 1.05, "backward": 0.9, "bias": 0.1},
        ),
        Description(
            "square",
            "square.Square",
            "gradient-free random search (Andriushchenko et al. 2020)",
            NORMS,
            _BALL | {"restarts": 1, "steps": 5000, "share": 0.8},
        ),
        Description(
            "rays",
            "rays.RayS",
            "decisions only: the nearest of a cube's corners (Chen and Gu 2020)",
            NORMS,
            _BALL | _AGAIN | {"steps": 5000},
        ),
        Description(
            "autoattack",
            "autoattack.AutoAttack",
            "APGD-CE, APGD-T, FAB-T and Square in turn (Croce and Hein 2020)",
            NORMS,
            _BALL | {"source": None, "steps": 100, "queries_square": 5000} | _TARGETS,
        ),
    )
}


def kind(name: str) -> "type[Attack]":
    """Returns the class of the attack `name`; raises `UsageError` where there is none."""
    module, _, cls = ATTACKS[check_choice("attack", name, ATTACKS)].home.partition(".")
    return getattr(importlib.import_module(f"tfode_adv.attacks.{module}"), cls)


def get(name: str, **hyperparameters: Any) -> "Attack":
    """Returns the attack `name` with these hyperparameters.

    Raises:
      UsageError: an unknown name or hyperparameter (the message lists the choices), a value out of range.
    """
    known = ATTACKS[check_choice("attack", name, ATTACKS)].defaults
    for given in hyperparameters:
        check_choice(f"hyperparameter of {name}", given, known)
    for needed, default in known.items():
        if default is REQUIRED and needed not in hyperparameters:
            raise UsageError(f"{name} needs {needed}")
    return kind(name)(**hyperparameters)


def available() -> dict[str, Description]:
    """Returns, by name, what each attack is."""
    return dict(ATTACKS)


def describe() -> str:
    """Returns the text of `--attack=help`."""
    return "\n".join(str(description) for description in available().values())
