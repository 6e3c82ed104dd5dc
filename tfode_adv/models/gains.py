"""The classifier that GAINS trains and certifies: Zeqiri et al., "Efficient Certified Training and Robustness
Verification of Neural ODEs", ICLR 2023, as the program published with it builds it.

Two convolutions that stride, one ODE block without normalisation, average, dense. The block's solver has steps of few
sizes, so that all that a set of images may take can be followed.
"""

import keras

from tfode_adv.layers import Conv2D, ReLUDynamics
from tfode_adv.models.parts import MakeODE, dense


def gains(
    x: keras.KerasTensor, num_classes: int, ode: MakeODE, *, filters: int, initialization: str
) -> keras.KerasTensor:
    """Two convolutions, one ODE block, head."""
    for name in ("stem", "downsample"):
        x = Conv2D(filters, 5, strides=2, padding=0, initialization=initialization, name=name)(x)
        x = keras.layers.ReLU(name=f"{name}_relu")(x)
    x = ode(ReLUDynamics(filters, initialization), name="ode")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return dense(x, num_classes, initialization)
