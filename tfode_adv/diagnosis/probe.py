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
from tfode_adv.layers.context import current_settings
from tfode_adv.models.answering import Answering
from tfode_adv.models.oracle import Answers, Oracle, as_function
from tfode_adv.models.traces import settings_key


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
        draws: runs whose mean answers a question put to a randomised model, at least 1.
        detours: by name, how to come by a model to differentiate in this one's place; see `detours`.

    Each method takes `settings`, those of `tfode_adv.layers.solver_settings`: tol, gradient, solver,
    num_steps; one that is None is the model's own.
    """

    def __init__(self, model: Callable, batch_size: int = 128):
        self.original, self.batch_size = model, batch_size
        self.blocks = models.ode_blocks(model) if isinstance(model, keras.layers.Layer) else []
        self.answering = Answering(model) if self.blocks else model
        self.oracle = Oracle(self.answering)
        self.model = self.oracle.function
        self.draws = 1
        self.detours: dict[str, Callable[[], Callable]] = {}
        self._functions: dict[Any, tuple[Callable, tf.Variable]] = {}

    def logits(self, x: np.ndarray, **settings: Any) -> np.ndarray:
        """Logits [N, K]."""

        def ask(images):
            return (self.shared(images),)

        return self.ask(("logits",), ask, settings, x)[0]

    def predict(self, x: np.ndarray, **settings: Any) -> np.ndarray:
        """Classes [N]; -1, which is no label, where a solve failed and the logits are not finite."""
        logits, zeros = self.logits(x, **settings), np.zeros(len(x), np.int32)
        return Answers(logits, zeros, zeros, zeros).prediction

    def mostly(self, x: np.ndarray, y: np.ndarray, runs: int = 15, **settings: Any) -> np.ndarray:
        """[N] bool: classified correctly, by a randomised model in most of `runs` runs, an odd number."""
        before, self.draws = self.draws, 1
        try:
            right = [self.predict(x, **settings) == y for _ in range(1 if before == 1 else runs)]
        finally:
            self.draws = before
        return np.mean(right, axis=0) > 0.5

    def gradient(self, x: np.ndarray, y: np.ndarray, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
        """Cross-entropy [N] and its gradient [N, H, W, C]."""

        def ask(images, labels):
            with tf.GradientTape() as tape:
                tape.watch(images)
                loss = losses.cross_entropy(self.shared(images), labels)
            gradient = tape.gradient(loss, images, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return loss, gradient

        loss, gradient = self.ask(("gradient",), ask, settings, x, y)
        return loss, gradient

    def margin_gradient(self, x: np.ndarray, y: np.ndarray, **settings: Any) -> np.ndarray:
        """The gradient [N, H, W, C] of the best rival's logit less the label's, which no confidence flattens."""

        def ask(images, labels):
            with tf.GradientTape() as tape:
                tape.watch(images)
                margin = losses.margin(self.shared(images), labels)
            return (tape.gradient(margin, images, unconnected_gradients=tf.UnconnectedGradients.ZERO),)

        return self.ask(("margin gradient",), ask, settings, x, y)[0]

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

    def shared(self, images: tf.Tensor) -> tf.Tensor:
        """Logits [B, K] within a question: of the program that all questions under its settings share."""
        return self._averaged(self._program(True, images.shape[1:], current_settings()), images)

    def function(self, *, answering: bool = True, draws: int | None = None, **settings: Any) -> Callable:
        """The model under some settings, as a function of images [B, H, W, C] to logits [B, K] for attacks.

        Compiled once for each kind of setting, however many attacks call it; the tolerance is a variable, so the
        function of one kind of setting has the tolerance that was asked for last.

        Args:
            answering: whether logits are NaN where a solve failed; else they are of the last good state.
            draws: runs whose mean is returned; default: `self.draws`.
            **settings: see the class.
        """
        settings = self._kind(settings)
        tol, draws = settings.pop("tol", None), self.draws if draws is None else draws
        key = answering, draws, tol is not None, settings_key(settings)
        if key not in self._functions:
            tolerance = tf.Variable(1.0, trainable=False, dtype=tf.float64)
            given = settings if tol is None else {**settings, "tol": tolerance}

            def call(images):
                program = self._program(answering, images.shape[1:], given)
                # Attacks refuse a model that stops its gradient; here that is a finding, and the gradient zero.
                nothing = 0.0 * tf.reduce_sum(tf.reshape(images, [tf.shape(images)[0], -1]), -1, keepdims=True)
                return self._averaged(program, images, draws) + nothing

            self._functions[key] = call, tolerance
        call, tolerance = self._functions[key]
        if tol is not None:
            tolerance.assign(tol)
        return call

    def ask(self, key: tuple, question: Callable, settings: dict[str, Any], *arrays: np.ndarray) -> list[np.ndarray]:
        """Compiles `question` once per `key` and settings, and runs it over the arrays in batches.

        Args:
            key: names the question, and whatever it closes over.
            question: from tensors [B, ...] to a tuple of tensors [B, ...].
            settings: solver settings; the tolerance may change without a new trace.
        """
        signature = [tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in arrays]
        compiled = self.oracle.compiled((key, self.draws), question, signature, self._kind(settings))
        return in_batches(compiled, self.batch_size, *arrays)

    def _kind(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Those that are given. A failed solve must not end a diagnosis of hundreds of images: `steps` counts them."""
        given = {name: value for name, value in settings.items() if value is not None}
        return {"on_failure": "status", **given} if self.blocks else {}

    def _program(self, answering: bool, shape: tuple[int, ...], settings: dict[str, Any]) -> Callable:
        """The model compiled for a kind of setting: tracing an ODE block costs seconds, calling a program nothing."""
        # A random tolerance drawn within would win over any that is set; a surrogate is of the model inside.
        inner = self.original.model if isinstance(self.original, models.RandomSolver) else self.original
        model = self.model if answering else as_function(inner)
        return self.oracle.compiled(
            ("program", answering), model, [tf.TensorSpec([None, *shape], tf.float32)], settings
        )

    def _averaged(self, program: Callable, images: tf.Tensor, draws: int | None = None) -> tf.Tensor:
        draws = self.draws if draws is None else draws
        logits = program(tf.concat([images] * draws, 0) if draws > 1 else images)
        return tf.add_n(tf.split(logits, draws)) / draws if draws > 1 else logits
