"""Which model, and which images: digests that tell what a finished piece of work was computed from."""

import hashlib
import json
from collections.abc import Iterable

import keras
import numpy as np

from tfode_adv.keras_internals import sublayers


def of_arrays(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256, in hexadecimal, of the arrays' bytes, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def of_model(model: keras.layers.Layer) -> str:
    """SHA-256, in hexadecimal, of a model's layers with their settings and of its weights.

    The same for the same model in another process, if every layer's settings are plain values. What a layer of
    one's own computes is not in its settings: its class is known by name alone. A layer that does not tell its
    settings, or whose settings hold an object (a function, say), is known by its address: another process will
    not take it for the same.
    """
    digest = hashlib.sha256()
    for layer in sublayers(model, include_self=True):
        digest.update(f"{type(layer).__module__}.{type(layer).__qualname__} {_settings(layer)}\n".encode())
    for weight in model.weights:
        values = np.asarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{values.dtype} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()


def _settings(layer: keras.layers.Layer) -> str:
    try:
        return json.dumps(layer.get_config(), sort_keys=True, default=repr)
    # A layer's own get_config may raise what it likes; Keras's does for arguments that it cannot tell.
    except Exception:
        return f"at {id(layer)}"
