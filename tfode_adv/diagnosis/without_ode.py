"""The same network with its ODE blocks left out, as a model to take gradients from.

An ODE returns a state of the shape it was given, so the layers around it fit without it. What such a network's
gradient finds need not pass the solver at all: SODEF (Kang et al., NeurIPS 2021) fell to examples of its own base
network, which is how its entry in RobustBench came to be marked unreliable.

Where a block is given a condition, all that the image says may stand in it: there one step of Euler's method, which
asks the dynamics and no solver, takes the ODE's place.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfode_adv import models
from tfode_adv.layers import ODEBlock
from tfode_adv.models.oracle import as_function


def bypass(model: keras.layers.Layer) -> Callable[[tf.Tensor], tf.Tensor]:
    """From images to what the model answers with each of its ODE blocks left out."""
    blocks = models.ode_blocks(model)

    def without(images: tf.Tensor) -> tf.Tensor:
        with _left_out(blocks):
            return as_function(model)(images)

    return without


@contextlib.contextmanager
def _left_out(blocks: Sequence[ODEBlock]) -> Iterator[None]:
    def without(block: ODEBlock, state: Any, training: bool | None = None, condition: Any = None) -> Any:
        if condition is None:
            return state
        slope = block.slope(0.0, state, condition=condition)
        return tf.nest.map_structure(lambda h, s: h + block.final_time * s, state, slope)

    for block in blocks:
        # Past Keras's own __setattr__, which would track the function as the layer's state.
        block.__dict__["call"] = functools.partial(without, block)
    try:
        yield
    finally:
        for block in blocks:
            del block.__dict__["call"]
