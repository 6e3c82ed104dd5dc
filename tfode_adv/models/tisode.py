"""TisODE and what it is compared with: Yan et al., "On Robustness of Neural Ordinary Differential Equations",
ICLR 2020, section 4, as the program published with it builds them for MNIST.

Two convolutions, each normalised in min(32, channels) groups, then one block: a residual block, an ODE whose dynamics
see the time, or one whose dynamics do not (time-invariant steady ODE). ODEs are solved by Euler's method over [0, 1].
"""

import keras

from tfode_adv.layers import Conv2D, GroupNormalization, PostNormBlock, PostNormDynamics
from tfode_adv.models.parts import MakeODE, dense


def tisode_cnn(
    x: keras.KerasTensor, num_classes: int, ode: MakeODE, *, filters: int, initialization: str
) -> keras.KerasTensor:
    """Two convolutions, one residual block, head."""
    block = PostNormBlock(filters, initialization=initialization, name="block")
    return _head(block(_stem(x, filters, initialization)), num_classes, initialization)


def tisode_odenet(
    x: keras.KerasTensor, num_classes: int, ode: MakeODE, *, filters: int, initialization: str
) -> keras.KerasTensor:
    """Two convolutions, one ODE block whose dynamics see the time, head."""
    dynamics = PostNormDynamics(filters, time=True, initialization=initialization)
    return _head(ode(dynamics, name="ode")(_stem(x, filters, initialization)), num_classes, initialization)


def tisode(
    x: keras.KerasTensor, num_classes: int, ode: MakeODE, *, filters: int, initialization: str
) -> keras.KerasTensor:
    """Two convolutions, one ODE block of time-invariant dynamics, head."""
    dynamics = PostNormDynamics(filters, initialization=initialization)
    return _head(ode(dynamics, name="ode")(_stem(x, filters, initialization)), num_classes, initialization)


def _stem(x, filters, initialization):
    x = Conv2D(filters, padding=0, initialization=initialization, name="stem")(x)
    x = GroupNormalization(activation="relu", name="stem_norm")(x)
    x = Conv2D(filters, 4, strides=2, initialization=initialization, name="downsample")(x)
    return GroupNormalization(activation="relu", name="downsample_norm")(x)


def _head(x, num_classes, initialization):
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return dense(x, num_classes, initialization)
