"""Keras layers: normalisation, convolutions, and the dynamics that an `ODEBlock` integrates."""

from tfode_adv.layers.convolution import Conv2D, TimeConv2D
from tfode_adv.layers.dynamics import ConvDynamics
from tfode_adv.layers.normalization import GroupNormalization, group_normalization

__all__ = [
    "Conv2D",
    "ConvDynamics",
    "GroupNormalization",
    "TimeConv2D",
    "group_normalization",
]
