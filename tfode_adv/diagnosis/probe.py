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
        draws: runs whose mean answers a question put to a randomised model, at least 1.
        detours: by name, how to come by a model to differentiate in this one's place; see `detours`.

    Each method takes `settings`, those of `tfode_adv.layers.solver_settings`: tol, gradient, solver,
    num_steps; one that is None is the model's own.
    """

    def __init__(self, model: Callable, batch_size: int = 128):
        self.original, self.batch_size = model, batch_size
        self.blocks = models.ode_blocks(model) if isinstance(model, keras.layers.Layer) else []
        self.answering = Answering(model) if self.blocks else model
        self.model = as_function(self.answering)
        self.draws = 1
        self.detours: dict[str, Callable[[], Callable]] = {}
        self._compiled: dict[Any, Callable] = {}
        self._asked: tuple[dict[str, Any], tf.Tensor | None] | None = None

    def logits(self, x: np.ndarray, **settings: Any) -> np.ndarray:
        """Logits [N, K]."""

        def ask(images):
            return (self.shared(images),)

        return self.ask(("logits",), ask, settings, x)[0]

    def predict(self, x: np.ndarray, **settings: Any) -> np.ndarray:
        """Classes [N]; -1, which is no label, where a solve failed and the logits are not finite."""
        logits = self.logits(x, **settings)
        return np.where(np.isfinite(logits).all(axis=-1), logits.argmax(axis=-1), -1)

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
        settings, tolerance = self._asked
        return self._averaged(self._program(settings, tolerance is not None, True, images.shape[1:]), images, tolerance)

    def function(self, *, answering: bool = True, draws: int | None = None, **settings: Any) -> Callable:
        """The model under some settings, as a function of images [B, H, W, C] to logits [B, K] for attacks.

        Compiled once for each kind of setting, however many attacks call it; the tolerance is a variable, so the
        function of one kind of setting has the tolerance that was asked for last.

        Args:
            answering: whether logits are NaN where a solve failed; else they are of the last good state.
            draws: runs whose mean is returned; default: `self.draws`.
            **settings: see the class.
        """
        settings, tol = self._kind(settings)
        draws = self.draws if draws is None else draws
        key = ("function", answering, draws, tol is not None, tuple(sorted(settings.items())))
        if key not in self._compiled:
            tolerance = None if tol is None else tf.Variable(0.0, trainable=False)

            def call(images):
                program = self._program(settings, tol is not None, answering, images.shape[1:])
                # Attacks refuse a model that stops its gradient; here that is a finding, and the gradient zero.
                nothing = 0.0 * tf.reduce_sum(tf.reshape(images, [tf.shape(images)[0], -1]), -1, keepdims=True)
                return self._averaged(program, images, tolerance, draws) + nothing

            self._compiled[key] = call, tolerance
        call, tolerance = self._compiled[key]
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
        settings, tol = self._kind(settings)
        compiled_key = (key, self.draws, tol is not None, tuple(sorted(settings.items())))
        if compiled_key not in self._compiled:

            def traced(tensors, tolerance=None):
                given = settings if tolerance is None else {"tol": tolerance, **settings}
                self._asked = settings, tolerance
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

    def _kind(self, settings: dict[str, Any]) -> tuple[dict[str, Any], float | None]:
        """What a program is compiled for, and the tolerance, which it takes as a tensor."""
        settings = {name: value for name, value in settings.items() if value is not None}
        # One image whose solve fails must not end a diagnosis of hundreds; `steps` counts them.
        settings = {"on_failure": "status", **settings} if self.blocks else {}
        return settings, settings.pop("tol", None)

    def _program(self, settings: dict[str, Any], with_tolerance: bool, answering: bool, shape) -> Callable:
        """The model compiled for a kind of setting: tracing an ODE block costs seconds, calling a program nothing."""
        key = ("program", answering, with_tolerance, tuple(sorted(settings.items())), tuple(shape))
        if key not in self._compiled:
            # A random tolerance drawn within would win over any that is set; a surrogate is of the model inside.
            inner = self.original.model if isinstance(self.original, models.RandomSolver) else self.original
            model = self.model if answering else as_function(inner)

            def traced(images, tolerance=None):
                given = settings if tolerance is None else {"tol": tolerance, **settings}
                with layers.solver_settings(**given):
                    return model(images)

            signature = [tf.TensorSpec([None, *shape], tf.float32)]
            signature += [tf.TensorSpec([], tf.float32)] if with_tolerance else []
            self._compiled[key] = tf.function(traced, input_signature=signature, autograph=False)
        return self._compiled[key]

    def _averaged(self, program: Callable, images: tf.Tensor, tolerance: Any, draws: int | None = None) -> tf.Tensor:
        draws = self.draws if draws is None else draws
        repeated = tf.concat([images] * draws, 0) if draws > 1 else images
        logits = program(repeated) if tolerance is None else program(repeated, tf.convert_to_tensor(tolerance))
        return tf.add_n(tf.split(logits, draws)) / draws if draws > 1 else logits
