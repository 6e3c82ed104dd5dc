"""What an analysis asks of a model: logits, losses, gradients and steps, under any solver settings.

Every question is compiled once per kind of setting; the tolerance is a tensor, so that it never
retraces. A model without an `ODEBlock` answers alike under every setting.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfode_adv import layers, models
from tfode_adv.attacks import losses
from tfode_adv.attacks.sources import as_function
from tfode_adv.models.answering import Answering


@contextlib.contextmanager
def calls_of(watched: Sequence[keras.layers.Layer]) -> Iterator[list]:
    """Collects, while it is open, what each layer is called with and what it returns.

    Yields:
        A list in the order of `watched`: (first argument, result) of the last call; None for a layer
        that was not called.
    """
    seen: list = [None] * len(watched)

    def spy(index: int, call: Callable) -> Callable:
        def spying(inputs, *args, **kwargs):
            outputs = call(inputs, *args, **kwargs)
            seen[index] = (inputs, outputs)
            return outputs

        return spying

    for index, layer in enumerate(watched):
        # Past Keras's own __setattr__, which would track the function as the layer's state.
        layer.__dict__["call"] = spy(index, layer.call)
    try:
        yield seen
    finally:
        for layer in watched:
            del layer.__dict__["call"]


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


class Probe:
    """Asks one model questions.

    Args:
        model: any callable from images [B, H, W, C] in [0, 1] to logits [B, K].
        batch_size: images a compiled call.

    Attributes:
        original: the model as given.
        answering: the same with logits that are NaN where a solve failed.
        model: that in inference mode, with float32 logits.
        blocks: its ODE blocks.

    Each method takes `settings`, those of `tfode_adv.layers.solver_settings`: tol, gradient, solver,
    num_steps; one that is None is the model's own.
    """

    def __init__(self, model: Callable, batch_size: int = 128):
        self.original, self.batch_size = model, batch_size
        self.blocks = models.ode_blocks(model) if isinstance(model, keras.layers.Layer) else []
        self.answering = Answering(model) if self.blocks else model
        self.model = as_function(self.answering)
        self._compiled: dict[Any, Callable] = {}

    def logits(self, x: np.ndarray, **settings: Any) -> np.ndarray:
        """Logits [N, K]."""

        def ask(images):
            return (self.model(images),)

        return self.ask(("logits",), ask, settings, x)[0]

    def predict(self, x: np.ndarray, **settings: Any) -> np.ndarray:
        """Classes [N]; -1, which is no label, where a solve failed and the logits are not finite."""
        logits = self.logits(x, **settings)
        return np.where(np.isfinite(logits).all(axis=-1), logits.argmax(axis=-1), -1)

    def gradient(self, x: np.ndarray, y: np.ndarray, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
        """Cross-entropy [N] and its gradient [N, H, W, C]."""

        def ask(images, labels):
            with tf.GradientTape() as tape:
                tape.watch(images)
                loss = losses.cross_entropy(self.model(images), labels)
            gradient = tape.gradient(loss, images, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return loss, gradient

        loss, gradient = self.ask(("gradient",), ask, settings, x, y)
        return loss, gradient

    def steps(self, x: np.ndarray, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
        """Accepted steps [N, number of ODE blocks], int32, and whether a solve failed, [N] bool."""
        if not self.blocks:
            return np.zeros((len(x), 0), np.int32), np.zeros(len(x), bool)

        def ask(images):
            with layers.record_statistics() as records:
                self.model(images)
            accepted = tf.stack([statistics.accepted for _, statistics in records], axis=-1)
            status = tf.stack([statistics.status for _, statistics in records], axis=-1)
            return accepted, tf.reduce_any(status != 0, axis=-1)

        accepted, failed = self.ask(("steps",), ask, settings, x)
        return accepted, failed

    def ask(self, key: tuple, question: Callable, settings: dict[str, Any], *arrays: np.ndarray) -> list[np.ndarray]:
        """Compiles `question` once per `key` and settings, and runs it over the arrays in batches.

        Args:
            key: names the question, and whatever it closes over.
            question: from tensors [B, ...] to a tuple of tensors [B, ...].
            settings: solver settings; the tolerance may change without a new trace.
        """
        settings = {name: value for name, value in settings.items() if value is not None}
        # One image whose solve fails must not end a diagnosis of hundreds; `steps` counts them.
        settings = {"on_failure": "status", **settings} if self.blocks else {}
        tol = settings.pop("tol", None)
        compiled_key = (key, tol is not None, tuple(sorted(settings.items())))
        if compiled_key not in self._compiled:

            def traced(tensors, tolerance=None):
                given = settings if tolerance is None else {"tol": tolerance, **settings}
                with layers.solver_settings(**given):
                    return question(*tensors)

            signature: list = [tuple(tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in arrays)]
            if tol is not None:
                signature.append(tf.TensorSpec([], tf.float32))
            # Without autograph: nothing here branches on a tensor, and a model brings its own.
            self._compiled[compiled_key] = tf.function(traced, input_signature=signature, autograph=False)
        compiled = self._compiled[compiled_key]
        tolerance = () if tol is None else (tf.constant(tol, tf.float32),)
        return in_batches(lambda *tensors: compiled(tensors, *tolerance), self.batch_size, *arrays)
