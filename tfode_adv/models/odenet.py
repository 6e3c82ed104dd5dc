"""The ODENet that MSML 2021, section 4, compares with: no down-sampling, ten ODE blocks one after another.

It follows TisODE's program (Yan et al., "On Robustness of Neural Ordinary Differential Equations", 2020),
with the dynamics of WIFS 2019 under 8 groups. 54 channels, the default, do not divide into 8 groups: the
groups are the largest number up to 8 that divides the channels, 6 of them here.
"""

from collections.abc import Sequence

import keras

from tfode_adv.layers import AveragePoolTo, ConvDynamics, GroupNormalization, TileChannels
from tfode_adv.models.parts import GROUPS, MakeODE, dense, stage_plan

POOLED = 3


def odenet_tq(
    x: keras.KerasTensor, num_classes: int, ode: MakeODE, *, filters: int, blocks: Sequence[int], initialization: str
) -> keras.KerasTensor:
    """Channels tiled to `filters`; ODE blocks; group norm; pooling to 3 x 3; dense."""
    groups = max(groups for groups in range(1, GROUPS + 1) if filters % groups == 0)
    x = TileChannels(filters, name="tile")(x)
    for i in range(len(stage_plan(filters, blocks))):
        x = ode(ConvDynamics(filters, groups, initialization), name=f"ode_{i}")(x)
    x = GroupNormalization(groups, name="head_norm")(x)
    x = AveragePoolTo(POOLED, name="pool")(x)
    # The dense layer's weights are those of a program that flattens channels first.
    x = keras.layers.Permute((3, 1, 2), name="channels_first")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    return dense(x, num_classes, initialization)
