"""A dynamics that several blocks hold: one in a saved file as well."""

import warnings
import weakref
from typing import Any

import keras

_holders: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def hold(dynamics: Any, block: keras.layers.Layer) -> None:
    """Notes that `block` integrates `dynamics`."""
    if isinstance(dynamics, keras.layers.Layer):
        _holders.setdefault(dynamics, weakref.WeakSet()).add(block)


def serialized(dynamics: Any) -> Any:
    """The Keras config of `dynamics`; in a model being saved, with the mark by which a reader knows it again.

    Warns where no file is written (`clone_model`, `to_json`) and other blocks hold it too: nothing can tell the
    copies' blocks that they had one dynamics.
    """
    config = keras.saving.serialize_keras_object(dynamics)
    # Keras marks what it meets again, and by then has written the first block without a mark.
    again = keras.saving.serialize_keras_object(dynamics)
    if not isinstance(config, dict):
        return config
    if "shared_object_id" in again:
        config["shared_object_id"] = again["shared_object_id"]
    elif len(_holders.get(dynamics, ())) > 1:
        warnings.warn(
            f"the dynamics {dynamics.name!r} is shared by {len(_holders[dynamics])} blocks, and copies made from their "
            "configs, as by clone_model, have one each: save the model and load it for a copy that shares",
            stacklevel=3,
        )
    return config
