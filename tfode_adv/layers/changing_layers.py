"""Layers whose outputs in training change from one evaluation to the next, which no dynamics may hold."""

import keras

from tfode_adv.errors import UsageError
from tfode_adv.keras_internals import draws_random_numbers, sublayers

# How much of it there is, by the names that Keras's own random layers and recurrent cells give it.
_AMOUNTS = ("rate", "stddev", "dropout", "recurrent_dropout")


def check_deterministic(dynamics: keras.layers.Layer) -> None:
    """Checks that `dynamics` holds no active dropout, noise, batch normalisation or spectral normalisation.

    A solver evaluates a dynamics many times and compares the results: with another mask each time it would integrate
    noise, and its backward pass, which evaluates anew, would differentiate another function. Batch statistics make a
    sample's solution depend on its neighbours; a spectral normalisation moves its weights at each evaluation.

    A layer is known to be random by the `keras.random.SeedGenerator` it holds, unless its amounts are all 0. One that
    draws its numbers otherwise is not recognised.

    Raises:
        UsageError: naming the layer.
    """
    for layer in sublayers(dynamics, include_self=True):
        if _is_random(layer) or _moves(layer):
            raise UsageError(
                f"the dynamics holds the {type(layer).__name__} layer {layer.name!r}, whose output changes between the "
                "evaluations of a solve in training: put it before or after the block"
            )


def _is_random(layer: keras.layers.Layer) -> bool:
    amounts = [getattr(layer, name) for name in _AMOUNTS if hasattr(layer, name)]
    return draws_random_numbers(layer) and (not amounts or any(amounts))


def _moves(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, keras.layers.BatchNormalization):
        return layer.trainable
    return isinstance(layer, keras.layers.SpectralNormalization)
