"""LyaNet: Rodriguez, Ames, Yue, "LyaNet: A Lyapunov Framework for Training Neural ODEs", ICML 2022, as its program
builds it.

A ResNet18, as for large images with a 7 x 7 stem that strides and a pooling, says the dynamics of the logits, which
start from 0.
"""

from collections.abc import Sequence

import keras

from tfode_adv.layers import BasicBlock, Conv2D, SimplexDynamics, Zeros
from tfode_adv.layers.blocks import BATCH_NORM
from tfode_adv.layers.initializers import bias_initializer, kernel_initializer
from tfode_adv.models.parts import MakeODE, stage_plan


def lyanet(
    x: keras.KerasTensor,
    num_classes: int,
    ode: MakeODE,
    *,
    filters: int,
    blocks: Sequence[int],
    dropout: float,
    initialization: str,
) -> keras.KerasTensor:
    """Features, each image's matrix, and one ODE block of its logits."""
    # The published widths are 64 and 128; a narrower network shrinks both.
    units = 2 * filters
    x = Conv2D(filters, 7, 2, 3, use_bias=False, initialization=initialization, name="stem")(x)
    x = keras.layers.BatchNormalization(name="bn1", **BATCH_NORM)(x)
    x = keras.layers.ReLU(name="relu1")(x)
    x = keras.layers.ZeroPadding2D(1, name="padding")(x)
    x = keras.layers.MaxPooling2D(3, 2, name="pool")(x)
    for name, width, strides in stage_plan(filters, blocks):
        x = BasicBlock(width, strides, initialization, name=name)(x)
    x = keras.layers.GlobalAveragePooling2D(name="average")(x)
    matrix = keras.layers.Dense(
        units**2,
        kernel_initializer=kernel_initializer(initialization),
        bias_initializer=bias_initializer(initialization, x.shape[-1]),
        name="matrix",
    )(x)
    dynamics = SimplexDynamics(num_classes, units, dropout, initialization)
    return ode(dynamics, name="ode")(Zeros(num_classes, name="start")(x), condition=matrix)
