"""Projected gradient ascent in plain TensorFlow: the inner loop of adversarial training."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfode_adv.attacks import norms
from tfode_adv.errors import check_range
from tfode_adv.tensorflow_internals import NOT_INLINED


def value_and_gradient(
    function: Callable,
    x: tf.Tensor,
    *,
    aux: bool = False,
    missing: Callable[[], None] | None = None,
    as_it_is: bool = False,
) -> tuple[Any, tf.Tensor]:
    """Returns `function(x)` [B] and its gradient by `x`, samples taken apart; no weight is watched.

    With `aux` the function returns a pair, and so does the first result. A gradient that is missing
    (nothing differentiable on the way: then `missing` is called) or, unless it is wanted `as_it_is`, not finite counts
    as zero.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        result = function(x)
    gradient = tape.gradient(result[0] if aux else result, x)
    if gradient is None:
        if missing:
            missing()
        gradient = tf.zeros_like(x)
    return result, gradient if as_it_is else tf.where(tf.math.is_finite(gradient), gradient, tf.zeros_like(gradient))


def projected_ascent(
    loss_fn: Callable[[tf.Tensor], tf.Tensor],
    x: tf.Tensor,
    *,
    norm: str,
    eps: norms.Size,
    step_size: norms.Size,
    steps: int,
    x_start: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns images near `x` whose loss was raised by `steps` steps of projected gradient ascent.

    Pure TensorFlow, for use inside a `tf.function`; no gradient flows out of it. The steps are those
    of Madry et al. (2018), in the operations of CleverHans' `projected_gradient_descent`.

    Args:
      loss_fn: maps images [B, ...] to losses [B].
      x: images [B, ...] in [0, 1], the centres of the balls.
      norm: "linf", "l2" or "l2rms".
      eps: the ball's radius, in `norm`; a number or a scalar tensor.
      step_size: the length of a step, in `norm`.
      steps: how many, at least 0.
      x_start: where to begin; brought into the ball and [0, 1] first. Default: `x`.

    Raises:
      UsageError: an unknown norm, or steps below 0.
    """
    kind = norms.geometry(norm)
    check_range("steps", steps, low=0)
    scale = norms.unit(norm, x.shape[1:])
    eps, step_size = scale * tf.cast(eps, x.dtype), scale * tf.cast(step_size, x.dtype)
    x = tf.stop_gradient(x)

    # Out of line: TensorFlow's CPU graph optimiser leaks temporaries from loop bodies that sum tensors.
    @tf.function(autograph=False, experimental_attributes=NOT_INLINED)
    def step(x_adv):
        _, gradient = value_and_gradient(loss_fn, x_adv)
        return norms.ascend(x, x_adv, gradient, kind, eps, step_size)

    start = x if x_start is None else norms.inside(x, tf.stop_gradient(x_start) - x, kind, eps)
    _, x_adv = tf.while_loop(lambda i, _: i < steps, lambda i, x_adv: (i + 1, step(x_adv)), (tf.constant(0), start))
    return tf.stop_gradient(x_adv)


def random_start(x: tf.Tensor, key: tf.Tensor, *, norm: str, eps: norms.Size) -> tf.Tensor:
    """Returns points uniform in the ball of radius `eps` around `x`, clipped to [0, 1].

    `key` [B]: one key a sample, from `random_streams.fold(seed, ...)`.
    """
    kind = norms.geometry(norm)
    eps = norms.unit(norm, x.shape[1:]) * tf.cast(eps, x.dtype)
    return norms.inside(x, norms.random_delta(key, x, kind, eps), kind, eps)
