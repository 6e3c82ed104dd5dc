"""SODEF for MNIST and the network that its features come from: Kang et al., "Stable Neural ODE with Lyapunov-Stable
Equilibrium Points for Defending Against Adversarial Attacks", NeurIPS 2021, as its program builds them.

A ResNet18 whose last map is read at its first pixel and whose first batch norm no ReLU follows, as in that program; two
dense layers with tanh; then either a dense layer that separates the classes as far as it goes and does not train
(`sodef_features`), or an ODE of the 64 features and a dense layer of its own (`sodef`). The two name what they share
alike, so that the second starts from the first.
"""

from collections.abc import Sequence

import keras

from tfode_adv.layers import BasicBlock, Conv2D, SineDynamics
from tfode_adv.layers.blocks import BATCH_NORM
from tfode_adv.layers.initializers import SimplexCorners, bias_initializer, kernel_initializer
from tfode_adv.models.parts import MakeODE, dense, stage_plan

FEATURES, HIDDEN = 64, 2048


def sodef(
    x: keras.KerasTensor, num_classes: int, ode: MakeODE, *, filters: int, blocks: Sequence[int], initialization: str
) -> keras.KerasTensor:
    """Features, one ODE block, head."""
    x = ode(SineDynamics(FEATURES, initialization), name="ode")(_features(x, filters, blocks, initialization))
    return dense(x, num_classes, initialization)


def sodef_features(
    x: keras.KerasTensor, num_classes: int, ode: MakeODE, *, filters: int, blocks: Sequence[int], initialization: str
) -> keras.KerasTensor:
    """Features, and a head whose weights are as far apart as they can be."""
    head = keras.layers.Dense(
        num_classes,
        use_bias=False,
        kernel_initializer=SimplexCorners(),
        trainable=False,
        dtype="float32",
        name="separated",
    )
    return head(_features(x, filters, blocks, initialization))


def _features(x, filters, blocks, initialization):
    x = Conv2D(filters, use_bias=False, initialization=initialization, name="stem")(x)
    x = keras.layers.BatchNormalization(name="bn1", **BATCH_NORM)(x)
    for name, width, strides in stage_plan(filters, blocks):
        x = BasicBlock(width, strides, initialization, name=name)(x)
    # The program takes the pixel where one would expect the map's average.
    x = keras.layers.Cropping2D([(0, size - 1) for size in x.shape[1:3]], name="first_pixel")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    for name, units in (("hidden", HIDDEN), ("features", FEATURES)):
        x = keras.layers.Dense(
            units,
            activation="tanh",
            kernel_initializer=kernel_initializer(initialization),
            bias_initializer=bias_initializer(initialization, x.shape[-1]),
            name=name,
        )(x)
    return x
