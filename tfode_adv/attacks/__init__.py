"""Attacks, and where their gradients come from.

result = PGD(norm="linf", eps=0.1, step_size=0.05, steps=10)(model, x, y)
result = get("pgd", eps=0.1, source=Through(gradient="backprop", tol=1e-4))(model, x, y)
"""

from typing import TYPE_CHECKING

from tfode_adv import on_demand

if TYPE_CHECKING:
    from tfode_adv.attacks import ascent, defaults
    from tfode_adv.attacks.apgd import APGD
    from tfode_adv.attacks.autoattack import AutoAttack, StagedResult
    from tfode_adv.attacks.base import Attack
    from tfode_adv.attacks.checks import AttackWarning
    from tfode_adv.attacks.cw import CWL2, CWLinf
    from tfode_adv.attacks.fab import FAB
    from tfode_adv.attacks.foolbox import Boundary, DeepFool, HopSkipJump
    from tfode_adv.attacks.gradient_sources import EOT, Smoothed, Source, Through, Transfer
    from tfode_adv.attacks.mim import MIM
    from tfode_adv.attacks.pgd import BIM, FGSM, PGD
    from tfode_adv.attacks.rays import RayS
    from tfode_adv.attacks.registry import available, describe, get
    from tfode_adv.attacks.result import AttackResult
    from tfode_adv.attacks.spsa import SPSA
    from tfode_adv.attacks.square import Square

__all__ = [
    "Boundary",
    "DeepFool",
    "HopSkipJump",
    "APGD",
    "AttackWarning",
    "AutoAttack",
    "StagedResult",
    "FAB",
    "Square",
    "BIM",
    "CWL2",
    "EOT",
    "FGSM",
    "MIM",
    "PGD",
    "RayS",
    "SPSA",
    "Attack",
    "AttackResult",
    "CWLinf",
    "Smoothed",
    "Source",
    "Through",
    "Transfer",
    "ascent",
    "available",
    "defaults",
    "describe",
    "get",
]

__getattr__, __dir__ = on_demand.filled(__name__)
