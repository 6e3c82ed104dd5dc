"""How a model is asked: any callable from images to logits, compiled once, with an answer or none for each image."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfode_adv.errors import UsageError
from tfode_adv.layers import record_statistics, solver_settings
from tfode_adv.layers.context import current_settings
from tfode_adv.models.answers import UNKNOWN, Answers
from tfode_adv.models.traces import Traces, settings_key
from tfode_adv.solvers import block_options

Model = Callable[[tf.Tensor], tf.Tensor]


class Oracle:
    """One model, and what was compiled to ask it.

    `settings`, wherever they are taken, are those of `solver_settings`, and add to those in force. Another tolerance or
    number of steps needs no new trace.

    Args:
        model: any callable from images [B, ...] in [0, 1] to logits [B, K].
    """

    def __init__(self, model: Any):
        self.function, self._around = as_function(model), runs_compiled(model)
        self._asking, self._traces = Traces(forward=True), Traces(size=128)

    def ask(self, x: np.ndarray, size: int = 128, **settings: Any) -> Answers:
        """What the model says of images [N, ...], `size` at a time."""
        signature = [tf.TensorSpec([None, *x.shape[1:]], tf.float32)]
        asked = self._told
        if not self._around:
            asked = self.compiled("answers", self._asked, signature, settings, asking=True)
        parts = []
        for first in range(0, len(x), size):
            part = x[first : first + size]
            found = asked(tf.constant(padded(part, size), tf.float32))
            parts.append(Answers(*(values.numpy()[: len(part)] for values in found)))
        return Answers.joined(parts)

    def gradient(
        self,
        loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        x: np.ndarray,
        y: np.ndarray,
        size: int = 128,
        **settings: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A loss [N] of logits and labels, and its gradient [N, ...] by the images; zero where none comes through."""

        def differentiated(images, labels):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(images)
                value = loss(self.function(images), labels)
            return value, tape.gradient(value, images, unconnected_gradients=tf.UnconnectedGradients.ZERO)

        value, gradient = self.question(("gradient", loss), differentiated, settings, x, y, size=size)
        return value, gradient

    def question(
        self,
        key: Hashable,
        question: Callable,
        settings: Mapping[str, Any],
        *arrays: np.ndarray,
        size: int = 128,
        asking: bool = False,
    ) -> list[np.ndarray]:
        """What `question` makes of arrays [N, ...], `size` of them at a time.

        Args:
            key: names the question, and whatever it closes over.
            question: from tensors [B, ...] to a tuple of tensors [B, ...].
            asking: that it takes no gradient; see `compiled`.
        """
        signature = [tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in arrays]
        compiled = self.compiled(key, question, signature, settings, asking)
        return in_batches(compiled, size, *arrays)

    def compiled(
        self,
        key: Hashable,
        question: Callable,
        signature: Sequence[tf.TensorSpec],
        settings: Mapping[str, Any],
        asking: bool = False,
    ) -> Callable:
        """A question to the model as a compiled function.

        Args:
            key: names the question, and whatever it closes over.
            question: from tensors, in TensorFlow.
            signature: the tensors' shapes and types.
            asking: that it takes no gradient, so that how blocks are differentiated is no matter.
        """
        fixed, live = _parted(current_settings() | block_options.checked(settings, tensors=True))
        if asking:
            fixed = {name: value for name, value in fixed.items() if not block_options.named(name).backward}

        def traced(tensors, values):
            with solver_settings(**fixed, **values):
                return question(*tensors)

        def make(noting):
            values = {name: tf.TensorSpec([], value.dtype) for name, value in live.items()}
            return tf.function(noting(traced), input_signature=[tuple(signature), values], autograph=False)

        traces = self._asking if asking else self._traces
        kinds = tuple(sorted((name, value.dtype.name) for name, value in live.items()))
        function = traces.find((key, tuple(signature), kinds, settings_key(fixed)), make)
        return lambda *tensors: function(tensors, {name: tf.convert_to_tensor(value) for name, value in live.items()})

    def _told(self, images: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The answers of a program, which tells logits and nothing of its solves."""
        zeros = tf.zeros([tf.shape(images)[0]], tf.int32)
        return self.function(images), zeros + UNKNOWN, zeros, tf.cast(zeros, tf.float32)

    def _asked(self, images: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with record_statistics() as records:
            logits = self.function(images)
        count = tf.shape(images)[0]
        nfe, status, time = tf.zeros([count], tf.int32), tf.zeros([count], tf.int32), tf.zeros([count])
        for _, block in records:
            if getattr(block.nfe, "graph", None) is not getattr(images, "graph", None):
                nfe = tf.fill([count], UNKNOWN)
                continue
            # Of blocks that are called about other samples, copies of the images say, nothing is told.
            mine = tf.equal(tf.shape(block.nfe)[0], count)
            added, failed, reached = (
                tf.cond(mine, lambda x=x: x, lambda x=x: tf.zeros([count], x.dtype))
                for x in (block.nfe, block.status, tf.cast(block.time, tf.float32))
            )
            nfe = tf.where(mine & (nfe != UNKNOWN), nfe + added, UNKNOWN)
            time = tf.where(status == 0, reached, time)
            status = tf.where(status == 0, failed, status)
        return logits, nfe, status, time


def _parted(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Solver settings that are part of a trace, and scalars that a compiled function is told at each call."""
    fixed, live = dict(settings), {}
    for option in block_options.options():
        if option.live and option.name in fixed and _is_scalar(fixed[option.name]):
            value = fixed.pop(option.name)
            kind = tf.float64 if option.kind is float else tf.int32
            live[option.name] = value if hasattr(value, "dtype") else tf.constant(value, kind)
    return fixed, live


def _is_scalar(value: Any) -> bool:
    return tf.TensorShape(getattr(value, "shape", ())).rank == 0


_oracles = Traces()


def oracle(model: Any) -> Oracle:
    """The oracle of a model: one of the last 32 that were asked, if it is one of them."""
    return _oracles.find(key_of(model), lambda noting: Oracle(model))


class _ByIdentity:
    """A model that has no hash, as a key: kept with it, so that no other object takes its number."""

    def __init__(self, model: Any):
        self.model = model

    def __hash__(self) -> int:
        return id(self.model)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, _ByIdentity) and other.model is self.model


def key_of(model: Any) -> Any:
    """A model as part of a key: itself, or what stands for one that has no hash."""
    try:
        hash(model)
    except TypeError:
        return _ByIdentity(model)
    return model


def runs_compiled(model: Any) -> bool:
    """Whether `model` says that it is a program already, which need not be compiled into those that call it."""
    return getattr(model, "runs_compiled", False) is True


def in_batches(function: Callable, batch_size: int, *arrays: np.ndarray) -> list[np.ndarray]:
    """Calls `function` on slices of `arrays` along the first axis and joins what it returns.

    Returns:
        One array for each tensor in `function`'s tuple.
    """
    parts = []
    for start in range(0, max(1, len(arrays[0])), batch_size):
        results = function(*(tf.convert_to_tensor(array[start : start + batch_size]) for array in arrays))
        parts.append([np.asarray(result) for result in results])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def bucket(count: int, size: int) -> int:
    """Returns the batch size to run `count` samples at: few different ones, none far from `count`."""
    quantum = max(1, size // 8)
    if count <= quantum:
        return min(size, 1 << (count - 1).bit_length())
    return min(size, -(-count // quantum) * quantum)


def padded(values: np.ndarray, size: int) -> np.ndarray:
    """Returns `values` [n, ...] filled up with its first to a batch size that programs are run at."""
    extra = bucket(len(values), size) - len(values)
    return np.concatenate([values, np.repeat(values[:1], extra, 0)]) if extra else values


def as_function(model: Any) -> Model:
    """Returns `model` as a function from images to float32 logits, in inference mode if it is a layer.

    The function raises `UsageError` if the model returns anything but one tensor of real numbers.
    """
    if hasattr(model, "stateless_call"):  # a Keras layer or model
        return lambda x: _real(model(x, training=False))
    return lambda x: _real(model(x))


def _real(output):
    if isinstance(output, (dict, list, tuple)):
        noun = f"a {type(output).__name__} of {len(output)}"
        raise UsageError(f"the model returned {noun}, but must return one tensor of logits: wrap it in a function")
    output = tf.convert_to_tensor(output)
    if not output.dtype.is_floating:
        raise UsageError(f"the model returned {output.dtype.name}, but must return logits of a real floating type")
    return tf.cast(output, tf.float32)
