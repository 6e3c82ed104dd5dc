"""What the families share: the head's dense layer, the SO block, and how stages of blocks grow."""

from collections.abc import Callable, Sequence

import keras

from tfode_adv.errors import UsageError, check_integer
from tfode_adv.layers import SkewDynamics, TileChannels
from tfode_adv.layers.initializers import bias_initializer, kernel_initializer

GROUPS = 8
# From a dynamics (and a name) to the ODE block that integrates it.
MakeODE = Callable[..., keras.layers.Layer]


def dense(x: keras.KerasTensor, units: int, initialization: str) -> keras.KerasTensor:
    """A dense layer, `[B, features]` to `[B, units]`, in float32 whatever the policy: the logits."""
    return keras.layers.Dense(
        units,
        kernel_initializer=kernel_initializer(initialization),
        bias_initializer=bias_initializer(initialization, x.shape[-1]),
        dtype="float32",
        name="logits",
    )(x)


def so_block(
    x: keras.KerasTensor, filters: int, strides: int, ode: MakeODE, initialization: str, name: str
) -> keras.KerasTensor:
    """The SO block (MSML 2021, section 3.2): maps `[B, H, W, C]` to `[B, H', W', filters]`.

    z starts as the input, y as the input with every `strides`-th pixel and its channels tiled; both are
    integrated together, and y at the end is the output.
    """
    dynamics = SkewDynamics(filters, x.shape[-1], strides, GROUPS, initialization=initialization)
    start = TileChannels(filters, strides, name=f"{name}_start")(x)
    y, _ = ode(dynamics, name=name)((start, x))
    return y


def stage_plan(filters: int, blocks: Sequence[int]) -> list[tuple[str, int, int]]:
    """(name, filters, strides) of every block: each stage but the first doubles the width and strides."""
    if not isinstance(blocks, (tuple, list)) or not blocks:
        raise UsageError(f"blocks is {blocks!r}, but must be a tuple of blocks per stage, such as (2, 2, 2, 2)")
    blocks = [check_integer("blocks per stage", count, low=1) for count in blocks]
    return [
        (f"stage{stage + 1}_block{block}", filters * 2**stage, 2 if stage and not block else 1)
        for stage, count in enumerate(blocks)
        for block in range(count)
    ]
