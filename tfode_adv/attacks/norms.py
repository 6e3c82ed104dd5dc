"""The geometry of the perturbations: their size, the ball they stay in, the steepest way up.

Three norms. `linf` is the largest change of an element, `l2` the Euclidean length, `l2rms` the root
mean square over the image's elements, the convention behind the "L2" of Carrara et al. (WIFS 2019):
a radius r there is a Euclidean radius of r sqrt(elements). So `l2rms` is `l2` in another unit, and
everything below is written for the two geometries `linf` and `l2` with lengths in their own units.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from cleverhans.tf2 import utils as cleverhans

from tfode_adv.attacks import random_streams
from tfode_adv.attacks.norm_names import NORMS
from tfode_adv.errors import check_choice

Size = tf.Tensor | float
TINY = 1e-12
"""CleverHans divides by at least the root of this."""


def geometry(norm: str) -> str:
    """Returns "linf" or "l2", the geometry that `norm` measures in; raises `UsageError` otherwise."""
    check_choice("norm", norm, NORMS)
    return "linf" if norm == "linf" else "l2"


def unit(norm: str, image_shape: Sequence[int]) -> float:
    """Returns the length of 1 in `norm` as its geometry measures it, for images of `image_shape`."""
    return math.sqrt(math.prod(image_shape)) if norm == "l2rms" else 1.0


def column(values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Reshapes one value a sample, [B], to [B, 1, ..., 1] of the rank of `like`; scalars pass."""
    values = tf.convert_to_tensor(values)
    return values if values.shape.rank == 0 else tf.reshape(values, [-1] + [1] * (like.shape.rank - 1))


def length(delta: tf.Tensor, kind: str) -> tf.Tensor:
    """Returns the length [B] of the perturbations `delta` [B, ...]."""
    axes = list(range(1, delta.shape.rank))
    if kind == "linf":
        return tf.reduce_max(tf.abs(delta), axes)
    scale = power_of_two(delta)
    return tf.sqrt(tf.reduce_sum(tf.square(delta / scale), axes)) * tf.reshape(scale, [-1])


def power_of_two(values: tf.Tensor) -> tf.Tensor:
    """Returns the power of two below the largest element of each of `values` [B, ...], as [B, 1, ..., 1]; 1 for zeros.

    Squares of elements of any size can be summed once they are divided by it, and no bit is lost on the way.
    """
    largest = tf.reduce_max(tf.abs(values), list(range(1, values.shape.rank)), keepdims=True)
    exponent = tf.bitwise.bitwise_and(tf.bitcast(tf.cast(largest, tf.float32), tf.int32), 0x7F800000)
    scale = tf.cast(tf.bitcast(exponent, tf.float32), values.dtype)
    return tf.where((largest > 0) & tf.math.is_finite(scale) & (scale > 0), scale, tf.ones_like(scale))


def _size(values: tf.Tensor) -> tf.Tensor:
    """Returns CleverHans' Euclidean length [B, 1, ..., 1], at least 1e-6.

    In a graph, TensorFlow turns a division by `sqrt` into a product with `rsqrt`, which differs in the
    last bit from what CleverHans computes eagerly; the idle maximum keeps the two the same.
    """
    axes = list(range(1, values.shape.rank))
    square = tf.maximum(TINY, tf.reduce_sum(tf.square(values), axes, keepdims=True))
    return tf.maximum(tf.sqrt(square), 0.0)


def project(delta: tf.Tensor, kind: str, eps: Size) -> tf.Tensor:
    """Returns `delta` [B, ...] brought into the ball of radius `eps` (one, or one a sample)."""
    eps = column(tf.cast(eps, delta.dtype), delta)
    if kind == "linf":
        return cleverhans.clip_eta(delta, np.inf, eps)
    return delta * tf.minimum(1.0, eps / _size(delta))


def steepest(gradient: tf.Tensor, kind: str, size: Size) -> tf.Tensor:
    """Returns the perturbation of length `size` along which a function with `gradient` grows most.

    CleverHans stops normalising Euclidean gradients shorter than 1e-6, so a confident classifier
    would pass for a robust one, and loses those whose squares overflow; here their scale is taken out first.
    """
    size = column(tf.cast(size, gradient.dtype), gradient)
    if kind == "linf":
        return cleverhans.optimize_linear(gradient, size, np.inf)
    gradient = gradient / power_of_two(gradient)
    return size * (gradient / _size(gradient))


def ascend(x: tf.Tensor, x_adv: tf.Tensor, gradient: tf.Tensor, kind: str, eps: Size, step_size: Size) -> tf.Tensor:
    """Returns the next iterate of projected ascent from `x_adv`, inside [0, 1] and the ball around `x`.

    The operations and their order are those of CleverHans 4.0.0's `projected_gradient_descent`.
    """
    x_adv = tf.clip_by_value(x_adv + steepest(gradient, kind, step_size), 0.0, 1.0)
    return inside(x, x_adv - x, kind, eps)


def inside(x: tf.Tensor, delta: tf.Tensor, kind: str, eps: Size) -> tf.Tensor:
    """Returns `x + delta` brought into the ball of radius `eps` around `x`, then into [0, 1]."""
    return tf.clip_by_value(x + project(delta, kind, eps), 0.0, 1.0)


def random_delta(key: tf.Tensor, like: tf.Tensor, kind: str, eps: Size) -> tf.Tensor:
    """Returns perturbations of the shape of `like` [B, ...], uniform in the ball of radius `eps`, one or one a sample.

    `key` [B] are `random_streams` keys. In `l2`, a normal direction scaled by u^(1/d) (Calafiore et al. 1998).
    """
    shape, eps = like.shape[1:], column(tf.cast(eps, like.dtype), like)
    if kind == "linf":
        return eps * (2.0 * random_streams.uniform(key, shape) - 1.0)
    direction = random_streams.normal(key, shape)
    # `normal` has taken 1 and 2 for itself; the radius must not depend on the direction.
    radius = random_streams.uniform(random_streams.fold(key, 3), []) ** (1.0 / math.prod(shape))
    size = tf.maximum(length(direction, kind), TINY)
    return eps * direction * column(radius / size, direction)
