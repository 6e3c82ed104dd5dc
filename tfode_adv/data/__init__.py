"""Images and labels, by name: TFDS data sets, our own small MNIST sample, folders of images."""

from tfode_adv.data.augment import AUGMENTATIONS
from tfode_adv.data.catalog import Info, available, info
from tfode_adv.data.pipeline import arrays, load

__all__ = ["AUGMENTATIONS", "Info", "arrays", "available", "info", "load"]
