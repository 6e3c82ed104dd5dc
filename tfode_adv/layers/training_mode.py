"""What in a dynamics differs in training: numbers drawn once a solve, and layers that no dynamics may hold."""

import contextlib
from collections.abc import Callable

import keras
import tensorflow as tf

from tfode_adv.errors import UsageError
from tfode_adv.keras_internals import called_in, seed_generators, sublayers

# How much of it there is, by the names that Keras's own random layers and recurrent cells give it.
_AMOUNTS = ("rate", "stddev", "dropout", "recurrent_dropout")

Evaluation = Callable[[], contextlib.AbstractContextManager]


def check_steady(dynamics: keras.layers.Layer) -> None:
    """Checks that `dynamics` holds nothing that changes between the evaluations of a solve.

    A batch normalisation that is trained makes a sample's solution depend on its neighbours, and moves its averages
    at each evaluation, as a spectral normalisation its weights; a recurrent cell keeps its own mask from call to call.

    Raises:
        UsageError: naming the layer.
    """
    for layer in sublayers(dynamics, include_self=True):
        if _moves(layer):
            raise UsageError(
                f"the dynamics holds the {type(layer).__name__} layer {layer.name!r}, whose output changes between the "
                "evaluations of a solve in training: put it before or after the block"
            )


def _moves(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, keras.layers.BatchNormalization):
        return layer.trainable
    keeps_its_mask = hasattr(layer, "get_dropout_mask") and _is_random(layer)
    return keeps_its_mask or isinstance(layer, keras.layers.SpectralNormalization)


def _is_random(layer: keras.layers.Layer) -> bool:
    amounts = [getattr(layer, name) for name in _AMOUNTS if hasattr(layer, name)]
    return bool(seed_generators(layer)) and (not amounts or any(amounts))


def steady_evaluation(dynamics: Callable, training: bool | None) -> tuple[Evaluation, bool]:
    """What every evaluation of one solve is made in, and whether it draws random numbers.

    Inside, layers are told `training`, in the backward pass too, and each random layer draws the same numbers in every
    evaluation: one mask a solve (Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks", NeurIPS 2016, for a network whose layers are the steps). The next solve draws others. A layer is
    known to be random by the `keras.random.SeedGenerator` it holds, unless its amounts are all 0.
    """
    found = sublayers(dynamics, include_self=True) if isinstance(dynamics, keras.layers.Layer) else []
    # Keras's own layers are random in training alone; another one may be so always.
    drawing = [x for x in found if _is_random(x) and (training or not type(x).__module__.startswith("keras."))]
    seeds = {id(each.state): (each.state, _fresh(each)) for layer in drawing for each in seed_generators(layer)}

    @contextlib.contextmanager
    def evaluation():
        with called_in(training), keras.StatelessScope(list(seeds.values())) if seeds else contextlib.nullcontext():
            yield

    return evaluation, bool(seeds)


def _fresh(generator: keras.random.SeedGenerator) -> tf.Tensor:
    """A state for `generator` from its next seed: so far off that no two solves draw the same numbers."""
    seed = tf.convert_to_tensor(generator.next())
    return tf.random.stateless_uniform(seed.shape, tf.cast(seed, tf.int64), None, None, seed.dtype)
