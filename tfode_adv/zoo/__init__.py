"""Trained networks that come with the package: `ta.zoo.load("msml2022/cifar10_resnet10")`.

Each is two files, `PAPER/NAME.npz`, its weights and nothing else, and `PAPER/NAME.json`, its card: what it is, the
recipe it was trained by, what was measured of it, and the SHA-256 of the weights.
"""

from typing import TYPE_CHECKING

from tfode_adv import on_demand

if TYPE_CHECKING:
    from tfode_adv.zoo.networks import add, as_run, available, card, load

__all__ = ["add", "as_run", "available", "card", "load"]

__getattr__, __dir__ = on_demand.filled(__name__)
