"""What the papers published, once: the figures in print, with their attacks, as data; how they took gradients."""

import importlib.resources
import json
from typing import Any

from tfode_adv.errors import check_choice

PAPERS = ("wifs2019", "msml2022", "iclr2020", "iclr2023", "neurips2021", "icml2022")
# As `models.build` calls the networks that each paper attacked.
MODELS = {
    "wifs2019": ("res", "mix", "oon"),
    "msml2022": (
        "sonet",
        "resnet10",
        "soblock_resnet10",
        "wide_resnet",
        "soblock_wide_resnet",
        "odenet_tq",
    ),
    "iclr2020": ("tisode", "tisode_odenet", "tisode_cnn"),
    "iclr2023": ("gains",),
    "neurips2021": ("sodef", "sodef_features"),
    "icml2022": ("lyanet",),
}
# How each paper took its gradients: MSML 2022's programs differentiated the steps' sizes as well.
GRADIENTS = {
    "wifs2019": "adjoint",
    "msml2022": "backprop_steps",
    "iclr2020": "backprop",
    "iclr2023": "backprop",
    "neurips2021": "adjoint",
    "icml2022": "backprop",
}


def published(paper: str) -> dict[str, Any]:
    """The figures in print, as `<paper>.json` beside this file holds them.

    Raises:
        UsageError: for a paper that is not there; the message names the choices.
    """
    check_choice("paper", paper, PAPERS)
    path = importlib.resources.files(__name__) / f"{paper}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def gradient_of(model: str | None) -> str:
    """How the attack on a network of this name was published; backpropagation for one that no paper has."""
    paper = _paper_of(model)
    return GRADIENTS[paper] if paper else "backprop"


def attacked_solver_of(model: str | None) -> dict[str, Any]:
    """The "solver" and "num_steps" that a network's paper attacked where it deployed others; nothing for all others."""
    paper = _paper_of(model)
    attack = published(paper)["attack"] if paper else {}
    return {name: attack[name] for name in ("solver", "num_steps") if name in attack}


def _paper_of(model: str | None) -> str | None:
    return next((paper for paper, names in MODELS.items() if model in names), None)
