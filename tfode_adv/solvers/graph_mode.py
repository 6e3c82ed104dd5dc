"""TensorFlow's graph mode, where it matters to a solver's loop."""

from collections.abc import Callable

import tensorflow as tf

from tfode_adv.tensorflow_internals import NOT_INLINED, compiled_by_xla


def in_xla() -> bool:
    """Whether the code being traced will be compiled by XLA, which needs static shapes and bounds."""
    return not tf.executing_eagerly() and compiled_by_xla(tf.compat.v1.get_default_graph())


def current_graph() -> tf.Graph | None:
    """The graph being built; None where operations are carried out at once."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def isolated(function: Callable) -> Callable:
    """`function`, kept out of the loop body it is called in.

    TensorFlow's CPU graph optimisers turn sums of three or more tensors inside a `while_loop` body into
    temporary variables that the loop leaks, and the second call fails with AlreadyExistsError. A function that
    is not inlined is immune, at no cost in time.
    """
    if tf.executing_eagerly():
        return function
    return tf.function(function, autograph=False, experimental_attributes=NOT_INLINED)
