"""Attacks, and where their gradients come from.

result = PGD(norm="linf", eps=0.1, step_size=0.05, steps=10)(model, x, y)
result = get("pgd", eps=0.1, source=Through(gradient="backprop", tol=1e-4))(model, x, y)
"""

from tfode_adv.attacks import ascent, defaults
from tfode_adv.attacks.base import Attack, AttackResult
from tfode_adv.attacks.cw import CWL2, CWLinf
from tfode_adv.attacks.mim import MIM
from tfode_adv.attacks.pgd import BIM, FGSM, PGD
from tfode_adv.attacks.registry import available, describe, get
from tfode_adv.attacks.sources import EOT, Source, Through, Transfer
from tfode_adv.attacks.spsa import SPSA

__all__ = [
    "BIM",
    "CWL2",
    "EOT",
    "FGSM",
    "MIM",
    "PGD",
    "SPSA",
    "Attack",
    "AttackResult",
    "CWLinf",
    "Source",
    "Through",
    "Transfer",
    "ascent",
    "available",
    "defaults",
    "describe",
    "get",
]
