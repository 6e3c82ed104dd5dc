"""How a perturbation travels along t: clean and adversarial states inside every `ODEBlock`.

WIFS 2019, section V and Figure 2: equation 5 is the mean over images of the distance between the clean
and the adversarial state at time t, in L2 and in cosine distance.
"""

import numpy as np
import tensorflow as tf

from tfode_adv.analysis.travel import Travel
from tfode_adv.diagnosis.probe import Probe
from tfode_adv.errors import UsageError
from tfode_adv.layers import record_starts


def travel(
    probe: Probe,
    clean: np.ndarray,
    adversarial: np.ndarray,
    labels: np.ndarray,
    *,
    tol: float | None = None,
    num_times: int = 21,
) -> list[Travel]:
    """Measures the distances of clean and adversarial states in every block of a model.

    Args:
        probe: the model; its blocks' inputs are those of the whole model at this tolerance.
        clean, adversarial: [N, H, W, C] in [0, 1]; labels: [N].
        tol: the tolerance; None for the model's own.
        num_times: points in t, both ends included, at least 2.

    Returns:
        One `Travel` a block, in the order of the layers. A state of several components (SONet's pair)
        is measured as one long vector.

    Raises:
        UsageError: if the model has no ODE block.
    """
    if not probe.blocks:
        raise UsageError("trajectories need an ODEBlock, and this model has none")

    def ask(images, perturbed):
        with record_starts() as starts:
            probe.model(tf.concat([images, perturbed], axis=0))
        last = {id(start.block): start for start in starts}
        distances = []
        for block in probe.blocks:
            times = tf.linspace(0.0, float(block.final_time), num_times)
            start = last[id(block)]
            states = block.trajectory(start.state, times, condition=start.condition)
            distances += _distances(tf.nest.flatten(states))
        return tuple(tf.transpose(distance) for distance in distances)

    flat = probe.ask(("travel", num_times), ask, {"tol": tol}, clean, adversarial)
    return [
        Travel(
            layer=block.name,
            times=np.linspace(0.0, float(block.final_time), num_times),
            l2=flat[3 * index].T,
            cosine=flat[3 * index + 1].T,
            relative=flat[3 * index + 2].T,
            labels=np.asarray(labels),
        )
        for index, block in enumerate(probe.blocks)
    ]


def _distances(components: list[tf.Tensor]) -> list[tf.Tensor]:
    """L2, cosine and relative distance [T, B] of states [T, 2 B, ...], the clean half first."""
    squares = dots = sizes = other_sizes = 0.0
    for component in components:
        component = tf.cast(component, tf.float32)
        clean, other = tf.split(component, 2, axis=1)
        axes = list(range(2, len(component.shape)))
        squares += tf.reduce_sum((clean - other) ** 2, axes)
        dots += tf.reduce_sum(clean * other, axes)
        sizes += tf.reduce_sum(clean**2, axes)
        other_sizes += tf.reduce_sum(other**2, axes)
    l2 = tf.sqrt(squares)
    cosine = 1.0 - tf.math.divide_no_nan(dots, tf.sqrt(sizes * other_sizes))
    return [l2, cosine, tf.math.divide_no_nan(l2, tf.sqrt(sizes))]
