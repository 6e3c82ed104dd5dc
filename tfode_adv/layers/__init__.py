"""Keras layers: normalisation, convolutions, and the dynamics that an `ODEBlock` integrates."""

from tfode_adv.layers.blocks import BasicBlock, ResidualBlock, WideBlock
from tfode_adv.layers.context import record_starts, record_statistics, solver_settings
from tfode_adv.layers.convolution import Conv2D, TimeConv2D
from tfode_adv.layers.dynamics import ConvDynamics
from tfode_adv.layers.normalization import GroupNormalization, group_normalization
from tfode_adv.layers.ode_block import ODEBlock
from tfode_adv.layers.post_norm import PostNormBlock, PostNormDynamics
from tfode_adv.layers.relu_dynamics import ReLUDynamics
from tfode_adv.layers.shaping import AppendConstant, AveragePoolTo, LastFeatures, TileChannels, Zeros
from tfode_adv.layers.simplex_dynamics import SimplexDynamics
from tfode_adv.layers.sine_dynamics import SineDynamics
from tfode_adv.layers.skew import SkewDenseDynamics, SkewDynamics

__all__ = [
    "AppendConstant",
    "AveragePoolTo",
    "BasicBlock",
    "Conv2D",
    "ConvDynamics",
    "GroupNormalization",
    "LastFeatures",
    "ODEBlock",
    "PostNormBlock",
    "PostNormDynamics",
    "ReLUDynamics",
    "ResidualBlock",
    "SimplexDynamics",
    "SineDynamics",
    "SkewDenseDynamics",
    "SkewDynamics",
    "TileChannels",
    "TimeConv2D",
    "WideBlock",
    "Zeros",
    "group_normalization",
    "record_starts",
    "record_statistics",
    "solver_settings",
]
