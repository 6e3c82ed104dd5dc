"""RES, MIX and OON: Carrara et al., "On the Robustness to Adversarial Examples of Neural ODE Image
Classifiers", WIFS 2019, section 3.1.

RES is residual all through, MIX replaces its six last blocks by one ODE block, OON has nothing but the ODE
block between a convolution and the classifier. Group normalisation has min(32, channels) groups. Where the
paper's text and its program disagree, the program is followed: the residual body ends without a
normalisation, and MIX has 0.23 million parameters on MNIST, not the 0.22 printed.
"""

import keras

from tfode_adv.layers import Conv2D, ConvDynamics, GroupNormalization, ResidualBlock
from tfode_adv.layers.normalization import group_count
from tfode_adv.models.parts import MakeODE, dense

STEM_FILTERS = 64
GROUPS = 32


def res(
    x: keras.KerasTensor, num_classes: int, ode: MakeODE, *, filters: int, dropout: float, initialization: str
) -> keras.KerasTensor:
    """Convolution, two striding blocks, six blocks, head."""
    group_count("filters", filters, GROUPS)
    x = _residual_stem(x, filters, initialization)
    for i in range(6):
        x = ResidualBlock(filters, initialization=initialization, name=f"block_{i}")(x)
    return _head(x, num_classes, dropout, initialization)


def mix(
    x: keras.KerasTensor, num_classes: int, ode: MakeODE, *, filters: int, dropout: float, initialization: str
) -> keras.KerasTensor:
    """Convolution, two striding blocks, one ODE block, head."""
    dynamics = ConvDynamics(filters, GROUPS, initialization)
    x = _residual_stem(x, filters, initialization)
    return _head(ode(dynamics, name="ode")(x), num_classes, dropout, initialization)


def oon(
    x: keras.KerasTensor, num_classes: int, ode: MakeODE, *, filters: int, dropout: float, initialization: str
) -> keras.KerasTensor:
    """One striding convolution, one ODE block, head."""
    dynamics = ConvDynamics(filters, GROUPS, initialization)
    x = Conv2D(filters, 4, strides=2, padding=1, initialization=initialization, name="stem")(x)
    return _head(ode(dynamics, name="ode")(x), num_classes, dropout, initialization)


def _residual_stem(x, filters, initialization):
    x = Conv2D(STEM_FILTERS, 3, padding=0, initialization=initialization, name="stem")(x)
    x = ResidualBlock(STEM_FILTERS, 2, initialization, name="downsample_1")(x)
    return ResidualBlock(filters, 2, initialization, name="downsample_2")(x)


def _head(x, num_classes, dropout, initialization):
    x = GroupNormalization(GROUPS, activation="relu", name="head_norm")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    return dense(x, num_classes, initialization)
