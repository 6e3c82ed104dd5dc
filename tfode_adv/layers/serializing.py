"""Solvers and gradients in the config of a layer that holds them."""

from typing import Any

import keras

from tfode_adv import solvers

for _kind in (*solvers.METHODS.values(), *solvers.gradients.NAMED.values()):
    keras.saving.register_keras_serializable(package="tfode_adv")(_kind)


def serialized(value: Any) -> Any:
    """The Keras config of a solver or gradient; any other value as it is."""
    is_object = isinstance(value, (solvers.RungeKuttaSolver, solvers.gradients.Gradient))
    return keras.saving.serialize_keras_object(value) if is_object else value


def deserialized(value: Any) -> Any:
    """The inverse of `serialized`."""
    if not isinstance(value, dict):
        return value
    config = {name: deserialized(each) for name, each in value["config"].items()}
    return keras.saving.deserialize_keras_object({**value, "config": config})
