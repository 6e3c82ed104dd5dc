"""Layers whose outputs in training change from one evaluation to the next, which no dynamics may hold."""

import keras

from tfode_adv.errors import UsageError

_RANDOM = (
    keras.layers.Dropout,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)


def check_deterministic(dynamics: keras.layers.Layer) -> None:
    """Checks that `dynamics` holds no active dropout, noise or batch normalisation.

    A solver evaluates a dynamics many times and compares the results: with another mask each time it would integrate
    noise, and its backward pass, which evaluates anew, would differentiate another function. Batch statistics make a
    sample's solution depend on its neighbours.

    Raises:
        UsageError: naming the layer.
    """
    for layer in dynamics._flatten_layers():
        random = isinstance(layer, _RANDOM) and (getattr(layer, "rate", 0) or getattr(layer, "stddev", 0))
        if random or (isinstance(layer, keras.layers.BatchNormalization) and layer.trainable):
            raise UsageError(
                f"the dynamics holds the {type(layer).__name__} layer {layer.name!r}, whose output changes between the "
                "evaluations of a solve in training: put it before or after the block"
            )
