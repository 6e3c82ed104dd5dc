"""Models of other conventions as attacks take them: images in [0, 1] to logits."""

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfode_adv.errors import UsageError, check_range
from tfode_adv.keras_internals import maker

_ENDS = ("softmax", "softmax_v2", "sigmoid")  # TensorFlow's own softmax has a name of its own


class _Wrapper(keras.Model):
    """What both share: the model inside, which is saved with them."""

    def __init__(self, model: keras.Model, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(model, keras.layers.Layer):
            raise UsageError(f"{type(self).__name__} takes a Keras model, but was given {type(model).__name__}")
        self.model = model

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "model": keras.saving.serialize_keras_object(self.model)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "_Wrapper":
        return cls(**{**config, "model": keras.saving.deserialize_keras_object(config["model"])})


@keras.saving.register_keras_serializable(package="tfode_adv")
class Rescaled(_Wrapper):
    """A model that expects other pixel values, for images in [0, 1].

    Attacks on it are in the units of those images: eps = 8 / 255 is 8 grey levels of a model that expects [0, 255].

    Args:
      model: any Keras model on images.
      bounds: the least and the largest pixel value that it expects, such as (0, 255) or (-1, 1).

    Raises:
      UsageError: it is no Keras model, or the bounds are no two increasing numbers.
    """

    def __init__(self, model: keras.Model, bounds: tuple[float, float], **kwargs):
        super().__init__(model, **kwargs)
        if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
            raise UsageError(f"bounds is {bounds!r}, but must be two numbers, the least and the largest")
        low, high = bounds
        self.bounds = check_range("the lower bound", low), check_range("the upper bound", high, low=low, low_open=True)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        low, high = self.bounds
        return self.model(low + (high - low) * x, training=training)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.model.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bounds": self.bounds}


@keras.saving.register_keras_serializable(package="tfode_adv")
class Logits(_Wrapper):
    """A classifier that ends in a softmax or sigmoid, less that: what attacks need is what went into it.

    Of a single sigmoid come two logits, 0 and what went into it: class 1 is the one that it is the probability of.

    Args:
      model: a Sequential or functional Keras model whose last operation is a softmax or sigmoid, by itself (a layer,
        or one of `keras.ops`) or as the activation of its last layer. It may be used in other threads meanwhile.

    Raises:
      UsageError: it is no such model.
    """

    def __init__(self, model: keras.Model, **kwargs):
        super().__init__(model, **kwargs)
        _last(model)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        with _linear(_last(self.model)):
            logits = self.model(x, training=training)
        return tf.concat([tf.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits

    def compute_output_shape(self, input_shape: Any) -> Any:
        *batch, classes = self.model.compute_output_shape(input_shape)
        return (*batch, max(2, classes))


def _last(model: Any) -> Any:
    """Returns the layer that ends `model` in a softmax or sigmoid, looked for in the models inside it too."""
    if isinstance(model, keras.Sequential) and model.layers:
        return _last(model.layers[-1])
    if isinstance(getattr(model, "model", None), keras.layers.Layer):
        return _last(model.model)
    if isinstance(model, keras.Model) and len(getattr(model, "outputs", None) or ()) == 1:
        return _last(maker(model.outputs[0]))
    activation = getattr(getattr(model, "activation", None), "__name__", None)
    operation = type(model).__module__.startswith("keras.") and type(model).__name__.lower() in _ENDS
    if operation or isinstance(model, keras.layers.Softmax) or activation in _ENDS:
        return model
    raise UsageError(
        f"the last operation of the model is {type(model).__name__}, but must be a softmax or sigmoid layer"
    )


class _Switch:
    """What is called in place of a layer's softmax or sigmoid: in the threads that are inside, `instead` of it."""

    lock = threading.Lock()

    def __init__(self, usual: Callable, instead: Callable):
        self.usual, self.instead = usual, instead
        self.inside: collections.Counter[int] = collections.Counter()
        # Another thread that comes in looks for what it is called.
        self.__name__ = getattr(usual, "__name__", "call")

    def __call__(self, *args: Any, **kwargs: Any) -> tf.Tensor:
        return (self.instead if self.inside[threading.get_ident()] else self.usual)(*args, **kwargs)


@contextlib.contextmanager
def _linear(end: Any) -> Iterator[None]:
    """Within this, and in this thread alone, the layer or operation `end` leaves its softmax or sigmoid out."""
    name, instead = "activation", keras.activations.linear
    if getattr(end, name, None) is None:
        name, instead = "call", lambda inputs, mask=None: inputs
    thread = threading.get_ident()
    with _Switch.lock:
        switch = getattr(end, name)
        if not isinstance(switch, _Switch):
            switch = _Switch(switch, instead)
            object.__setattr__(end, name, switch)
        switch.inside[thread] += 1
    try:
        yield
    finally:
        with _Switch.lock:
            switch.inside[thread] -= 1
            if not +switch.inside:
                object.__setattr__(end, name, switch.usual)
