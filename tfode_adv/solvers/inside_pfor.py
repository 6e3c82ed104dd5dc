"""Pulling back inside `pfor`, by which `tape.jacobian` and `tape.batch_jacobian` vectorise a gradient.

A backward pass has loops of as many turns as its solve had, and lists of tensors, which `pfor` cannot vectorise, or
only in many seconds. It is told to call the whole of it once a cotangent.
"""

from collections.abc import Callable

import tensorflow as tf

from tfode_adv.tensorflow_internals import in_pfor_body, let_pfor_loop

Pull = Callable[[list[tf.Tensor]], list[tf.Tensor]]


def inside_pfor() -> bool:
    """Whether the graph being built is the body of a `pfor`."""
    return not tf.executing_eagerly() and in_pfor_body(tf.compat.v1.get_default_graph())


def one_at_a_time(pull: Pull, cotangents: list[tf.Tensor]) -> list[tf.Tensor]:
    """`pull(cotangents)` as one operation, which `pfor` turns into a loop."""
    results = tf.function(lambda *c: pull(list(c)), autograph=False)(*cotangents)
    if results:
        let_pfor_loop(results[0].op)
    return results


def eagerly(pull: Pull, cotangents: list[tf.Tensor], like: list[tf.Tensor | tf.Variable]) -> list[tf.Tensor]:
    """`pull(cotangents)` of an eager solve, whose steps are in Python's lists, inside a graph.

    Args:
        like: tensors or variables of the results' types and shapes.
    """
    flat = tf.py_function(lambda *c: pull(list(c)), cotangents, [x.dtype for x in like])
    for result, x in zip(flat, like, strict=True):
        result.set_shape(x.shape)
    return flat
