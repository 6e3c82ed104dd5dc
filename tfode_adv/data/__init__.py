"""Images and labels, by name: TFDS data sets, our own small MNIST sample, folders of images."""

from typing import TYPE_CHECKING

from tfode_adv import on_demand

if TYPE_CHECKING:
    from tfode_adv.data.catalog import AUGMENTATIONS, Info, available, info
    from tfode_adv.data.pipeline import arrays, load

__all__ = ["AUGMENTATIONS", "Info", "arrays", "available", "info", "load"]

__getattr__, __dir__ = on_demand.filled(__name__)
