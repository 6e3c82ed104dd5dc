"""ResNet10 and the wide ResNets of MSML 2021, section 4, plain and with an SO block as their first layer.

They keep batch normalisation's running moments as weights that do not train. ResNet10 is He et al.'s (2016)
basic-block network for small images; the wide ResNets follow the program of MSML 2021, whose convolutions
have biases and whose second convolution strides.
"""

from collections.abc import Sequence

import keras

from tfode_adv.errors import UsageError
from tfode_adv.layers import BasicBlock, Conv2D, WideBlock
from tfode_adv.layers.blocks import BATCH_NORM
from tfode_adv.models.parts import MakeODE, dense, so_block, stage_plan


def resnet10(
    x: keras.KerasTensor, num_classes: int, ode: MakeODE, *, filters: int, blocks: Sequence[int], initialization: str
) -> keras.KerasTensor:
    """Convolution, batch norm, ReLU; stages of basic blocks; global average; dense."""
    x = Conv2D(filters, use_bias=False, initialization=initialization, name="stem")(x)
    return _basic_stages(_norm_relu(x, "bn1"), num_classes, filters, blocks, initialization)


def soblock_resnet10(
    x: keras.KerasTensor, num_classes: int, ode: MakeODE, *, filters: int, blocks: Sequence[int], initialization: str
) -> keras.KerasTensor:
    """ResNet10 whose first convolution, batch norm and ReLU are one SO block."""
    x = so_block(x, filters, 1, ode, initialization, "stem")
    return _basic_stages(x, num_classes, filters, blocks, initialization)


def wide_resnet(
    x: keras.KerasTensor, num_classes: int, ode: MakeODE, *, filters: int, depth: int, widen: int, initialization: str
) -> keras.KerasTensor:
    """Convolution; three stages of (depth - 4) / 6 wide blocks; batch norm, ReLU; global average; dense."""
    x = Conv2D(filters, initialization=initialization, name="stem")(x)
    return _wide_stages(x, num_classes, filters, depth, widen, initialization)


def soblock_wide_resnet(
    x: keras.KerasTensor, num_classes: int, ode: MakeODE, *, filters: int, depth: int, widen: int, initialization: str
) -> keras.KerasTensor:
    """The wide ResNet whose first convolution is an SO block."""
    x = so_block(x, filters, 1, ode, initialization, "stem")
    return _wide_stages(x, num_classes, filters, depth, widen, initialization)


def _basic_stages(x, num_classes, filters, blocks, initialization):
    for name, width, strides in stage_plan(filters, blocks):
        x = BasicBlock(width, strides, initialization, name=name)(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return dense(x, num_classes, initialization)


def _wide_stages(x, num_classes, filters, depth, widen, initialization):
    if depth < 10 or depth % 6 != 4:
        raise UsageError(f"depth is {depth}, but must be 6 n + 4 for n blocks a stage: 10, 16, 22, 28, 34, ...")
    for name, width, strides in stage_plan(filters * widen, 3 * ((depth - 4) // 6,)):
        x = WideBlock(width, strides, initialization, name=name)(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(_norm_relu(x, "bn1"))
    return dense(x, num_classes, initialization)


def _norm_relu(x, name):
    x = keras.layers.BatchNormalization(name=name, **BATCH_NORM)(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)
