"""One update of the weights: losses and gradients on the replicas, then the optimiser."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfode_adv.attacks import random_streams
from tfode_adv.errors import failed_assertion
from tfode_adv.layers import record_statistics, solver_settings
from tfode_adv.solvers.status import REASONS, Status
from tfode_adv.training import distribution
from tfode_adv.training.losses import Loss, cross_entropy

Tensor = Any


@dataclasses.dataclass
class Outcome:
    """What a pass over some images gave; outcomes add up.

    Attributes:
        images: how many.
        loss, correct: sums over the images; one whose solve failed or whose logits are not finite is never
            correct, whatever its largest logit.
        lost: how many such images there are.
        nfe: evaluations of the dynamics in the forward pass, per sample, all blocks together; None for
            models without a block, and where a solve of the batch raised.
        nfe_backward: sum over the images of the evaluations that the backward pass differentiated; None
            where it is not known, as for an adjoint.
        failed: how many solves failed, by reason.
        finite: whether the loss and every gradient are.
    """

    images: int = 0
    loss: float = 0.0
    correct: int = 0
    lost: int = 0
    nfe: np.ndarray | None = None
    nfe_backward: float | None = None
    failed: Counter = dataclasses.field(default_factory=Counter)
    finite: bool = True

    def __add__(self, other: "Outcome") -> "Outcome":
        if not self.images:
            return other
        return Outcome(
            self.images + other.images,
            self.loss + other.loss,
            self.correct + other.correct,
            self.lost + other.lost,
            None if self.nfe is None or other.nfe is None else np.concatenate([self.nfe, other.nfe]),
            None if self.nfe_backward is None or other.nfe_backward is None else self.nfe_backward + other.nfe_backward,
            self.failed + other.failed,
            self.finite and other.finite,
        )

    @property
    def good(self) -> bool:
        return self.finite and not self.failed

    @property
    def fault(self) -> str:
        """One line that says what is wrong with it; empty where nothing is."""
        if self.failed:
            counts = (f"{count} solves {reason}" for reason, count in sorted(self.failed.items()))
            return f"of the {self.images} images' solves some failed: {', '.join(counts)}"
        if not np.isfinite(self.loss):
            return f"the loss is {self.loss}"
        return "" if self.finite else "the gradient is not finite"


class Updates:
    """The compiled passes over a model: gradients of a batch, their application, evaluation.

    A batch is global: its gradient is that of the mean loss over all its images, however they are dealt
    to replicas and whatever part of it is held in memory at once. Batch statistics (batch normalisation)
    are each part's own, their moving averages the replicas' mean; each part draws its own dropout masks, and
    replicas draw the same.

    Args:
        model: images [B, H, W, C] to logits [B, classes], built in the strategy's scope.
        optimizer: a Keras optimiser built on the model's trainable variables, in the same scope.
        loss: from `losses`.
        strategy: from `distribution.strategy`.
        seed: where the random numbers of the loss start.
        accumulate: how many parts a batch is cut into; their gradients are summed before the update.
        jit_compile: whether XLA compiles the passes.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss: Loss,
        *,
        strategy: tf.distribute.Strategy,
        seed: int = 0,
        accumulate: int = 1,
        jit_compile: bool = False,
    ):
        self.model, self.optimizer, self.loss, self.strategy = model, optimizer, loss, strategy
        self.seed, self.accumulate = seed, accumulate
        self._train = self._compile(self._train_replica, jit_compile)
        self._evaluate = self._compile(self._evaluate_replica, jit_compile)
        # Where the loss is scaled, the optimiser itself passes over gradients that overflow.
        self._scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        self._apply = self._everywhere(self._apply_replica)
        self._spoil = self._everywhere(_spoil_replica)
        self._sum = self._everywhere(_sum_replica)

    def gradients(self, x: Tensor, y: Tensor, step: int) -> tuple[Outcome, list[Tensor] | None]:
        """The outcome of update number `step` on the global batch (x, y), and each replica's gradients.

        There are none where a solve raised.
        """
        try:
            return self._gradients(x, y, step)
        except tf.errors.InvalidArgumentError as error:
            return _raised(error, len(x)), None

    def apply(self, gradients: list[Tensor]) -> None:
        """Sums the replicas' gradients and updates the weights."""
        self._apply(gradients)

    def evaluate(self, x: Tensor, y: Tensor) -> Outcome:
        """The outcome of the global batch (x, y) in inference mode, with plain cross-entropy."""
        try:
            sums, samples = self._evaluate(*distribution.deal(self.strategy, x, y))
            return self._outcome(sums, samples, len(x))
        except tf.errors.InvalidArgumentError as error:
            return _raised(error, len(x))

    def _gradients(self, x: Tensor, y: Tensor, step: int) -> tuple[Outcome, list[Tensor]]:
        count, parts = len(x), min(self.accumulate, max(1, len(x) // self.strategy.num_replicas_in_sync))
        position = np.arange(count)
        outcome, total, overflowed = Outcome(), None, False
        for part in range(parts):
            rows = distribution.deal(self.strategy, x[part::parts], y[part::parts], position[part::parts])
            sums, samples, gradients = self._train(*rows, tf.constant(count, tf.float32), tf.constant(step))
            outcome += self._outcome(sums, samples, len(x[part::parts]))
            total = gradients if total is None else self._sum(total, gradients)
            overflowed |= bool(sums["not_finite"])
        if overflowed and self._scaled:
            # The optimiser asks each replica whether its own gradients overflowed: all must give one answer.
            total = self._spoil(total)
        return outcome, total

    def _train_replica(self, x: Tensor, y: Tensor, position: Tensor, count: Tensor, step: Tensor):
        key = random_streams.fold(self.seed, step, position)
        x_adv = self.loss.attack(self._infer, x, y, key)
        calls: list[list] = []
        with tf.GradientTape() as tape:
            losses, logits = self.loss(lambda images: self._recorded(images, calls, training=True), x, x_adv, y)
            loss = self.optimizer.scale_loss(tf.reduce_sum(losses) / count)
        variables = self.model.trainable_variables
        gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])
        sums, samples = self._sums(losses, logits, y, calls)
        return {**sums, "not_finite": 1.0 - tf.cast(finite, tf.float32)}, samples, gradients

    def _evaluate_replica(self, x: Tensor, y: Tensor):
        calls: list[list] = []
        logits = self._recorded(x, calls, training=False)
        return self._sums(cross_entropy(logits, y), logits, y, calls)

    def _apply_replica(self, gradients: list[Tensor]) -> None:
        # A function's argument has no device yet, and the sum over workers asks for one.
        gradients = [tf.identity(gradient) for gradient in gradients]
        self.optimizer.apply(gradients, self.model.trainable_variables)
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            # Moving averages of batch statistics: each replica has moved its own.
            for variable in self.model.non_trainable_variables:
                if keras.backend.is_float_dtype(variable.dtype):
                    variable.assign(context.all_reduce(tf.distribute.ReduceOp.MEAN, tf.convert_to_tensor(variable)))

    def _infer(self, x: Tensor) -> Tensor:
        with solver_settings(on_failure="status"):
            return self.model(x, training=False)

    def _recorded(self, x: Tensor, calls: list, training: bool) -> Tensor:
        """Logits; the statistics of the call's solves are appended to `calls`."""
        # A failed solve is counted, not raised: under XLA an assertion says nothing.
        with solver_settings(on_failure="status"), record_statistics() as records:
            logits = self.model(x, training=training)
        calls.append([statistics for _, statistics in records])
        return logits

    def _sums(self, losses: Tensor, logits: Tensor, y: Tensor, calls: list) -> tuple[dict, dict]:
        """What adds up over samples, and what is wanted of each sample of the first call."""
        statistics = [one for call in calls for one in call]
        sound = tf.reduce_all(tf.math.is_finite(logits), axis=-1)
        for one in statistics:
            sound &= tf.equal(one.status, int(Status.OK))
        correct = sound & tf.equal(tf.argmax(logits, axis=-1), tf.cast(y, tf.int64))
        sums = {"loss": tf.reduce_sum(losses), "correct": _count(correct), "lost": _count(~sound)}
        for reason in REASONS:
            failed = [_count(one.status == reason) for one in statistics]
            sums[f"status_{int(reason)}"] = tf.add_n(failed) if failed else tf.constant(0.0)
        first = calls[0]
        samples = {"nfe": tf.add_n([one.nfe for one in first])} if first else {}
        # An adjoint's cost is not known where its forward pass is.
        if first and all(one.nfe_backward is not None for one in first):
            backward = tf.add_n([one.nfe_backward for one in first])
            sums["nfe_backward"] = tf.reduce_sum(tf.cast(backward, tf.float32))
        return sums, samples

    def _everywhere(self, replica: Callable) -> Callable:
        run = tf.autograph.experimental.do_not_convert(replica)
        return tf.function(lambda *arguments: self.strategy.run(run, arguments), autograph=False)

    def _compile(self, replica: Callable, jit_compile: bool) -> Callable:
        """`replica` run on every replica; of its results the first is summed over them."""
        replica = tf.autograph.experimental.do_not_convert(replica)
        if jit_compile:
            replica = tf.function(replica, jit_compile=True, autograph=False)

        def run(*arguments):
            sums, *rest = self.strategy.run(replica, args=arguments)
            sums = {key: self.strategy.reduce("SUM", value, axis=None) for key, value in sums.items()}
            return sums, *rest

        if self.strategy.num_replicas_in_sync > 1:
            return tf.function(run, reduce_retracing=True, autograph=False)
        compiled = None

        def call(*arguments):
            # One trace for batches of any size: the last of an epoch is often smaller.
            nonlocal compiled
            arguments = [tf.convert_to_tensor(argument) for argument in arguments]
            signature = [_any_batch(each) for each in arguments]
            compiled = compiled or tf.function(run, input_signature=signature, autograph=False)
            return compiled(*arguments)

        return call

    def _outcome(self, sums: dict[str, Tensor], samples: dict[str, Any], count: int) -> Outcome:
        nfe = samples.get("nfe")
        if nfe is not None:
            nfe = np.concatenate([part.numpy() for part in self.strategy.experimental_local_results(nfe)])
        failed = {text: int(sums[f"status_{int(reason)}"]) for reason, text in REASONS.items()}
        return Outcome(
            images=count,
            loss=float(sums["loss"]),
            correct=int(sums["correct"]),
            lost=int(sums["lost"]),
            nfe=nfe,
            nfe_backward=float(sums["nfe_backward"]) if "nfe_backward" in sums else None,
            failed=Counter({text: number for text, number in failed.items() if number}),
            finite=math.isfinite(float(sums["loss"])) and (self._scaled or not float(sums.get("not_finite", 0.0))),
        )


def _raised(error: tf.errors.InvalidArgumentError, count: int) -> Outcome:
    """The outcome of a batch of `count` images in which an assertion failed; raises any other error."""
    # Stock TFP's solver raises, whatever on_failure says, and its step size is the whole batch's.
    if "assertion failed" not in error.message:
        raise error
    failed = Counter({f"stopped: {failed_assertion(error.message)}": count})
    return Outcome(images=count, loss=math.nan, lost=count, failed=failed, finite=False)


def _count(which: Tensor) -> Tensor:
    return tf.reduce_sum(tf.cast(which, tf.float32))


def _sum_replica(ours: list[Tensor], theirs: list[Tensor]) -> list[Tensor]:
    return [one + other for one, other in zip(ours, theirs, strict=True)]


def _spoil_replica(gradients: list[Tensor]) -> list[Tensor]:
    return [tf.fill(tf.shape(gradient), tf.constant(math.nan, gradient.dtype)) for gradient in gradients]


def _any_batch(tensor: Tensor) -> tf.TensorSpec:
    return tf.TensorSpec([None, *tensor.shape[1:]] if tensor.shape.rank else [], tensor.dtype)
