"""What an analysis asks of a model: logits, losses, gradients and steps, under any solver settings.

The model is compiled once per kind of setting, and every question is asked around that program: tracing and
differentiating an adaptive solve takes many seconds, the few operations of a question nothing. The tolerance is a
tensor, so that it never retraces. A model without an `ODEBlock` answers alike under every setting.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfode_adv import layers, models
from tfode_adv.attacks import losses
from tfode_adv.attacks.ascent import value_and_gradient
from tfode_adv.attacks.gradient_sources import one_by_one
from tfode_adv.keras_internals import sublayers
from tfode_adv.models.answering import Answering
from tfode_adv.models.answers import Answers
from tfode_adv.models.oracle import Oracle, as_function, in_batches
from tfode_adv.models.traces import settings_key


@contextlib.contextmanager
def calls_of(watched: Sequence[keras.layers.Layer], order: list[int] | None = None) -> Iterator[list]:
    """Collects, while it is open, what each layer is called with and what it returns.

    Args:
        order: is given the index of each layer as it is called.

    Yields:
        A list in the order of `watched`: (first argument, result) of the last call; None for a layer
        that was not called.
    """
    seen: list = [None] * len(watched)

    def spy(index: int, call: Callable) -> Callable:
        def spying(inputs, *args, **kwargs):
            outputs = call(inputs, *args, **kwargs)
            seen[index] = (inputs, outputs)
            if order is not None:
                order.append(index)
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
        random: whether it answers the same images differently; to be set before a question is asked.
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
        self.random = False
        self.detours: dict[str, Callable[[], Callable]] = {}
        self._functions: dict[Any, tuple[Callable, tf.Variable]] = {}
        self._settings: dict[str, Any] = {}

    def logits(self, x: np.ndarray, **settings: Any) -> np.ndarray:
        """Logits [N, K]."""
        return self.around(lambda images: (self.shared(images),), settings, x)[0]

    def predict(self, x: np.ndarray, **settings: Any) -> np.ndarray:
        """Classes [N]; -1, which is no label, where a solve failed and the logits are not finite."""
        return Answers.told(self.logits(x, **settings)).prediction

    def mostly(self, x: np.ndarray, y: np.ndarray, runs: int = 15, **settings: Any) -> np.ndarray:
        """[N] bool: classified correctly, by a randomised model in most of `runs` runs, an odd number."""
        asked = 1 if self.draws == 1 else runs
        with self.single_runs():
            right = [self.predict(x, **settings) == y for _ in range(asked)]
        return np.mean(right, axis=0) > 0.5

    @contextlib.contextmanager
    def single_runs(self) -> Iterator[None]:
        """Inside, a randomised model answers by one run each time, and not by the mean of `draws`."""
        before, self.draws = self.draws, 1
        try:
            yield
        finally:
            self.draws = before

    def gradient(self, x: np.ndarray, y: np.ndarray, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
        """Cross-entropy [N] and its gradient [N, H, W, C], not finite where the model's is not."""
        loss, gradient = self._differentiated(losses.cross_entropy, x, y, settings)
        return loss, gradient

    def margin_gradient(self, x: np.ndarray, y: np.ndarray, **settings: Any) -> np.ndarray:
        """The gradient [N, H, W, C] of the best rival's logit less the label's, which no confidence flattens."""
        return self._differentiated(losses.margin, x, y, settings)[1]

    def _differentiated(self, loss: Callable, x: np.ndarray, y: np.ndarray, settings: dict[str, Any]) -> list:
        def question(images, labels):
            return value_and_gradient(lambda z: loss(self.shared(z), labels), images, as_it_is=True)

        return self.around(question, settings, x, y)

    def steps(self, x: np.ndarray, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
        """Accepted steps [N, number of ODE blocks], int32, and whether a solve failed, [N] bool."""
        if not self.blocks:
            return np.zeros((len(x), 0), np.int32), np.zeros(len(x), bool)

        def question(images):
            answers = self._program(self._settings, False, images.shape[1:])(images)
            return answers["accepted"], answers["failed"]

        accepted, failed = self.around(question, settings, x)
        return accepted, failed

    def at_rest(self, x: np.ndarray, **settings: Any) -> np.ndarray:
        """Steps whose error was exactly zero [N], int32, over all ODE blocks."""
        if not self.blocks:
            return np.zeros(len(x), np.int32)

        def question(images):
            return (self._program(self._settings, False, images.shape[1:])(images)["at_rest"],)

        return self.around(question, settings, x)[0]

    def around(self, question: Callable, settings: dict[str, Any], *arrays: np.ndarray) -> list[np.ndarray]:
        """Asks `question`, which calls `shared` or `features`, one operation at a time, in batches.

        Args:
            question: from tensors [B, ...] to a tuple of tensors [B, ...].
            settings: solver settings.
        """
        self._settings = self._kind(settings)
        return in_batches(question, self.batch_size, *arrays)

    def shared(self, images: tf.Tensor) -> tf.Tensor:
        """Logits [B, K] within a question asked by `around`."""
        return self._logits(images, self._settings, self.draws, True)

    def features(self, images: tf.Tensor) -> tf.Tensor:
        """What the dense layer that is called last is given, [B, F], within a question asked by `around`.

        The logits of a model that calls none.
        """
        return self._program(self._settings, False, images.shape[1:])(images)["features"]

    def function(
        self, *, answering: bool = True, draws: int | None = None, many_steps: bool = False, **settings: Any
    ) -> Callable:
        """The model under some settings, as a function of images [B, H, W, C] to logits [B, K] for attacks.

        Compiled once for each kind of setting, however many attacks call it; the tolerance is a variable, so the
        function of one kind of setting has the tolerance that was asked for last.

        Args:
            answering: whether logits are NaN where a solve failed; else they are of the last good state, and of the
                model inside a `RandomSolver`.
            draws: runs whose mean is returned; default: `self.draws`.
            many_steps: whether an attack of so many steps calls it that its own operations, one by one, take longer
                than a program of its own takes to make; without ODE blocks, that is.
            **settings: the solver settings that hold inside, as the class takes them.
        """
        settings = self._kind(settings)
        around = bool(self.blocks) or not many_steps
        tol, draws = settings.pop("tol", None), self.draws if draws is None else draws
        key = answering, around, draws, tol is not None, settings_key(settings)
        if key not in self._functions:
            tolerance = tf.Variable(1.0, trainable=False, dtype=tf.float64)
            given = settings if tol is None else {**settings, "tol": tolerance}

            def call(images):
                # Attacks refuse a model that stops its gradient; here that is a finding, and the gradient zero.
                nothing = 0.0 * tf.reduce_sum(tf.reshape(images, [tf.shape(images)[0], -1]), -1, keepdims=True)
                return self._logits(images, given, draws, answering) + nothing

            call.runs_compiled = around
            self._functions[key] = call, tolerance
        call, tolerance = self._functions[key]
        if tol is not None:
            tolerance.assign(tol)
        return call

    def ask(self, key: tuple, question: Callable, settings: dict[str, Any], *arrays: np.ndarray) -> list[np.ndarray]:
        """Compiles `question`, which calls the layers itself, once per `key` and settings, and asks it in batches.

        Args:
            key: names the question, and whatever it closes over.
            question: from tensors [B, ...] to a tuple of tensors [B, ...].
            settings: solver settings; the tolerance may change without a new trace.
        """
        return self.oracle.question((key, self.draws), question, self._kind(settings), *arrays, size=self.batch_size)

    def _kind(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Those that are given. A failed solve must not end a diagnosis of hundreds of images: `steps` counts them."""
        given = {name: value for name, value in settings.items() if value is not None}
        return {"on_failure": "status", **given} if self.blocks else {}

    def _logits(self, images: tf.Tensor, settings: dict[str, Any], draws: int, answering: bool) -> tf.Tensor:
        program = self._program(settings, not answering, images.shape[1:])

        def run(_=None):
            answers = program(images)
            if answering and self.blocks:
                return tf.where(answers["failed"][:, None], np.float32(np.nan), answers["logits"])
            return answers["logits"]

        # Copies in one call would all meet the same draw of a model that draws once a call.
        return tf.reduce_mean(one_by_one(run, tf.range(draws), 1), 0) if draws > 1 else run()

    def _program(self, settings: dict[str, Any], inside: bool, shape: tuple[int, ...]) -> Callable:
        """The model compiled for a kind of setting: all that questions ask of it, by name.

        `inside`: the model inside a `RandomSolver`, whose own tolerance would win over any that is set.
        """
        inside &= isinstance(self.original, models.RandomSolver)
        answers = _answers_of(self.original.model if inside else self.original)
        images = tf.TensorSpec([None, *shape], tf.float32)
        # Another run of a random model is another function.
        if not self.blocks or self.random:
            return self.oracle.compiled(("program", inside), answers, [images], settings)
        # However it is differentiated, it computes the same.
        computing = {name: value for name, value in settings.items() if name != "gradient"}
        forward = self.oracle.compiled(("forward", inside), answers, [images], computing, asking=True)

        def back(*slopes):
            signature = [images, *(tf.TensorSpec([None, *slope.shape[1:]], slope.dtype) for slope in slopes)]
            return self.oracle.compiled(("back", inside), _pulled_back(answers), signature, settings)

        return _by_images(forward, back)


def _answers_of(model: Callable) -> Callable:
    """From images to all that is asked of a model, by name."""

    def answers(images):
        dense = [one for one in layers_of(model) if isinstance(one, keras.layers.Dense)]
        order: list[int] = []
        with layers.record_statistics() as records, calls_of(dense, order) as calls:
            logits = as_function(model)(images)
        found = {"logits": logits, "features": _features(logits, [calls[index][0] for index in order])}
        if records:
            found["accepted"] = tf.stack([statistics.accepted for _, statistics in records], axis=-1)
            found["at_rest"] = tf.add_n([statistics.at_rest for _, statistics in records])
            status = tf.stack([statistics.status for _, statistics in records], axis=-1)
            found["failed"] = tf.reduce_any(status != 0, axis=-1)
        return found

    return answers


def _pulled_back(answers: Callable) -> Callable:
    """From images and slopes by logits and by features to slopes by the images."""

    def pulled(images, *slopes):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            found = answers(images)
        sources = [found["logits"], found["features"]]
        return tape.gradient(sources, images, list(slopes), tf.UnconnectedGradients.ZERO)

    return pulled


def _by_images(forward: Callable, back: Callable) -> Callable:
    """A program that is differentiated by the images alone.

    A compiled function's gradient is by all that it reads. That of an adaptive solve by its weights takes as long
    again, to trace and to run; another pass forwards takes less.

    Args:
        forward: from images to answers by name.
        back: from slopes by logits and features to what takes images and these to slopes by the images.
    """

    def asked(images):
        # Else a tape would have the compiled function differentiated.
        found = forward(tf.stop_gradient(images))

        @tf.custom_gradient
        def differentiable(images):
            slopes = lambda *slopes: back(*slopes)(images, *slopes)  # noqa: E731
            return (tf.identity(found["logits"]), tf.identity(found["features"])), slopes

        logits, features = differentiable(images)
        return {**found, "logits": logits, "features": features}

    return asked


def layers_of(model: Any) -> list[keras.layers.Layer]:
    """A model's layers, nested ones too; none of a plain callable."""
    return sublayers(model, include_self=True) if isinstance(model, keras.layers.Layer) else []


def _features(logits: tf.Tensor, given: list) -> tf.Tensor:
    """Of what dense layers were `given`, in order, the last that stands in no inner graph; [B, F] float32."""
    for one in reversed(given):
        # A dynamics' layers are called within a loop, and what they are given is not to be had outside.
        known = tf.is_tensor(one) and one.shape.rank and None not in one.shape[1:]
        if known and getattr(one, "graph", None) is logits.graph:
            return tf.cast(tf.reshape(one, [tf.shape(one)[0], int(np.prod(one.shape[1:]))]), tf.float32)
    return tf.identity(logits)
