"""What the papers published, once: the figures in print, with their attacks, as data; how they took gradients."""

import importlib.resources
import json
from typing import Any

from tfode_adv.errors import check_choice

PAPERS = ("wifs2019", "msml2022")
# How each paper took its gradients: MSML 2022's programs differentiated the steps' sizes as well.
GRADIENTS = {"wifs2019": "adjoint", "msml2022": "backprop_steps"}


def published(paper: str) -> dict[str, Any]:
    """The figures in print, as `<paper>.json` beside this file holds them.

    Raises:
        UsageError: for a paper that is not there; the message names the choices.
    """
    check_choice("paper", paper, PAPERS)
    path = importlib.resources.files(__name__) / f"{paper}.json"
    return json.loads(path.read_text(encoding="utf-8"))
