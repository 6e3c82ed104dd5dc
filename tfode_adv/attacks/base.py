"""What all attacks share: hyperparameters checked first, batches, restarts, and results checked last."""

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfode_adv.attacks import checks, engine, norms, retrying_pool
from tfode_adv.attacks.checks import number
from tfode_adv.attacks.gradient_sources import Source
from tfode_adv.attacks.result import AttackResult
from tfode_adv.attacks.verification import Verified
from tfode_adv.errors import RunError, UsageError, check_choice, failed_assertion
from tfode_adv.models.answers import Answers, fooled
from tfode_adv.models.oracle import oracle


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack:
    """An attack is its hyperparameters; calling it attacks a model.

    Subclasses write `start(batch, numbers) -> state` and `step(batch, state, numbers) -> state` in TensorFlow, for
    samples that do not see each other; the state is a dict of tensors [B, ...] with the current answer in
    "x_adv" and, optionally, "done" [B]: who has been turned. A step may also return "over" [B]: who has nothing
    left to try. What is a number among the hyperparameters they take from `numbers`, so that another value needs no
    new trace.

    Args:
      norm: the norm that the attack is bounded by, or minimises.
      eps: radius of the ball around the image, in `norm`, for images in [0, 1], whatever the model inside takes (see
        `models.Rescaled`): one, or [N], one for each image. None, where allowed: as near as possible.
      seed: where all random numbers start, from 0 to 2^31 - 1; the same seed gives the same result at any batch size.
      batch_size: the most images that go through the model at once, noisy copies and mirror images included;
        default: 128.
    """

    norm: str = "linf"
    eps: checks.Lengths = number(low=0, length=True)
    seed: int = number(0, low=0, high=2**31 - 1)
    batch_size: int | None = number(None, structural=True, low=1)

    name: ClassVar[str]
    summary: ClassVar[str]
    norms: ClassVar[tuple[str, ...]] = norms.NORMS
    targeted: ClassVar[bool] = False
    early_stop: ClassVar[bool] = True
    restarts: ClassVar[int] = 1
    random_start: ClassVar[bool] = False
    source: ClassVar[Source] = Source()
    default_batch_size: ClassVar[int] = 128

    def __post_init__(self):
        check_choice("norm", self.norm, self.norms)
        checks.hyperparameters(self)
        if self.limit > checks.LARGEST[int]:
            raise UsageError(f"{self.name} would take {self.limit} steps, but must take at most {checks.LARGEST[int]}")
        if self.source is None:
            object.__setattr__(self, "source", Source())
        if not isinstance(self.source, Source):
            raise UsageError(f"source is {self.source!r}, but must be a Through, EOT, Transfer or None")

    def start(self, batch: engine.Batch, numbers: engine.Numbers) -> engine.State:
        """Returns the state that the attack begins with: by default, at the clean image."""
        return {"x_adv": batch.x}

    def step(self, batch: engine.Batch, state: engine.State, numbers: engine.Numbers) -> engine.State:
        """Returns the state after one more step."""
        raise TypeError(f"{type(self).__name__} has no step")

    @property
    def limit(self) -> int:
        """The most steps a sample takes in one restart."""
        return self.steps

    def rows(self, num_classes: int) -> int:
        """Returns how many images one step of one sample sends through the model at once."""
        return self.source.at_once

    def costs(self, steps: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the queries and the gradients of samples that took `steps` [N] steps."""
        return steps * self.source.queries, steps * self.source.draws

    def rounds(self, num_classes: int) -> int:
        """How many times a sample that resists is attacked, each time with another `batch.restart`."""
        return self.restarts

    @property
    def kind(self) -> str:
        """The geometry of the norm: "linf" or "l2"."""
        return norms.geometry(self.norm)

    def accept(self, model: Any, x: np.ndarray) -> None:
        """Raises `UsageError` if this attack, of all, can do nothing with `model` or with images [N, ...]."""
        self.source.accept(model)

    def fooled(self, logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Returns [B]: does this output mean success? One that is not finite does not."""
        return fooled(logits, y, self.targeted)

    def __call__(
        self,
        model,
        x,
        y,
        *,
        indices=None,
        progress: Callable[[int], None] | None = None,
        clean: Answers | None = None,
    ) -> AttackResult:
        """Attacks `model` on the images `x`.

        Args:
          model: maps images to logits [N, K]; a Keras model is called in inference mode. It is compiled at its
            first attack and kept with the attack: Python values that a callable of your own reads stay what they
            were then, tensors and variables do not.
          x: [N, ...] in [0, 1].
          y: [N] or [N, 1] integer labels, or one-hot [N, K]; if `targeted`, the classes to reach.
          indices: [N] the images' numbers in a larger set, which name their random numbers; default
            0 .. N-1. Give them to get the same result for an image in whatever part it is attacked.
          progress: called with the number of images that have just finished a restart (a target, a stage): in
            all once for each image and restart that it takes, and not for images that need no attack.
          clean: what the model answers for `x`, where it was asked before; that counts as a query as well.

        Raises:
          UsageError: images outside [0, 1] or not finite, labels out of range, a model of probabilities or of anything
            but one tensor of logits, one that no gradient comes through, or what this attack cannot take (see
            `accept`).
          RunError: the model's output for a clean image is not finite, or a solve failed on the way.
        """
        x = checks.images(x)
        y = checks.labels(y, len(x))
        index = np.arange(len(x)) if indices is None else np.asarray(indices, np.int64)
        if index.shape != y.shape:
            raise UsageError(f"indices have shape {index.shape}, but the images call for {y.shape}")
        for name, value in vars(self).items():
            if isinstance(value, tuple) and len(value) != len(x):
                raise UsageError(f"{name} has {len(value)} values, but there are {len(x)} images")
        self.accept(model, x)
        if not len(x):
            return self.nothing(x)
        try:
            return self._attack(model, x, y, index, progress or (lambda count: None), clean)
        except tf.errors.InvalidArgumentError as error:
            # How a compiled model reports a solve that failed.
            raise RunError(f"{self.name} stopped: {failed_assertion(error.message)}") from error

    def nothing(self, x: np.ndarray) -> AttackResult:
        """Returns the result for no images at all, [0, ...]."""
        none, blank = np.zeros(0, np.int64), Answers.blank(0, 1)
        distance = none.astype(np.float32)
        return AttackResult(x, none.astype(bool), distance, none, none, none, blank, blank, self.targeted)

    def _attack(self, model, x, y, index, progress, clean) -> AttackResult:
        size = self.batch_size or self.default_batch_size
        asked = oracle(model)
        program = engine.program(model, self.within(None), x.shape[1:])
        numbers, own = self._numbers(x.shape[1:])
        radius = None if self.eps is None else np.broadcast_to(np.float64(self.eps), len(x))
        first = asked.ask(x, size) if clean is None else clean
        checks.logits(first.logits, y, lambda images: asked.ask(images, size).logits, x)
        tally = _Tally(self, x, y, *self._second_look(asked, first, x, y, size))
        rows = self.rows(first.logits.shape[-1])
        at_once = max(1, size // rows)
        if rows > size:
            program = engine.program(model, self.within(size), x.shape[1:])
        worthwhile = self.limit or self.random_start
        for restart in range(self.rounds(first.logits.shape[-1]) if worthwhile else 0):
            rows = tally.pending(restart)
            if not len(rows):
                break
            part = radius if radius is None else radius[rows]
            verify = functools.partial(self._verify, asked, size, x[rows], y[rows], part)
            samples = x[rows], y[rows], first.logits[rows], index[rows]
            each = {name: values[rows] for name, values in own.items()}
            work = retrying_pool.Work(program, asked, *samples, each, restart, numbers, at_once, verify, progress)
            tally.update(rows, *self.search(work))
        return tally.result()

    def _second_look(self, asked, first, x, y, size) -> tuple[Answers, np.ndarray, np.ndarray]:
        """Returns, for the clean images, the answers that count, the queries and who needs no attack, [N].

        A randomised model may have stumbled once: what it gets wrong twice needs no attack.
        """
        answers, wrong = first.copy(), first.fooled(y, self.targeted)
        if wrong.any():
            answers.put(wrong, asked.ask(x[wrong], size))
        needless = wrong & answers.fooled(y, self.targeted)
        checks.fit(needless, self.targeted)
        return answers, 1 + wrong.astype(np.int64), needless

    def search(self, work: retrying_pool.Work) -> tuple[Verified, np.ndarray, np.ndarray]:
        """Returns, of one restart, what was found for each sample, and the queries and gradients spent [n]."""
        count = len(work.x)
        verified = Verified(work.x.copy(), Answers.blank(count, work.classes), np.zeros(count, bool))
        steps, passes = np.zeros((2, count), np.int64)
        for found in retrying_pool.run(work):
            verified.put(found.rows, found.verified)
            steps[found.rows], passes[found.rows] = found.steps, found.passes
        queries, gradients = self.costs(steps, work.classes)
        return verified, queries + passes, gradients

    def _verify(self, asked, size, x, y, radius, rows, x_new) -> Verified:
        """Returns the images found for `rows` of `x` as they count, and what a fresh pass says of them."""
        x_new = self._settle(x[rows], x_new, None if radius is None else radius[rows])
        answers = asked.ask(x_new, size)
        return Verified(x_new, answers, answers.fooled(y[rows], self.targeted))

    def structure(self) -> tuple:
        """What its compiled steps depend on: everything but the values that they are told as `numbers`."""
        told = {field.name for field in checks.open_fields(self)}
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "norm"}
        kept = {name: isinstance(value, tuple) if name in told else value for name, value in values.items()}
        return type(self), self.kind, tuple(kept.items())

    def within(self, size: int | None) -> "Attack":
        """Returns the attack that sends at most `size` images of one sample through the model at once."""
        given = {"source": self.source.within(size)} if size is not None and "source" in vars(self) else {}
        return self._changed(batch_size=size, **given)

    def chosen(self, rows: np.ndarray) -> "Attack":
        """Returns the attack for `rows` of its samples: what is given for each is cut to them."""
        each = {field.name: getattr(self, field.name) for field in checks.open_fields(self)}
        return self._changed(**{k: tuple(np.array(v)[rows].tolist()) for k, v in each.items() if isinstance(v, tuple)})

    def _changed(self, **values: Any) -> "Attack":
        """Returns the same with other values: unchecked, as what was computed may be out of a caller's range."""
        changed = copy.copy(self)
        for name, value in values.items():
            object.__setattr__(changed, name, value)
        return changed

    def _numbers(self, image_shape) -> tuple[dict[str, tf.Tensor], dict[str, np.ndarray]]:
        """Returns the numeric hyperparameters, scalars, and those that each sample has its own of, [N]."""
        scale = norms.unit(self.norm, image_shape)
        numbers, own = {"max_steps": tf.constant(self.limit, tf.int32)}, {}
        for field in checks.open_fields(self):
            value = getattr(self, field.name)
            value = np.multiply(value, scale) if field.metadata["length"] else value
            if np.ndim(value):
                own[field.name] = value.astype(np.float32)
            else:
                numbers[field.name] = tf.constant(value, tf.int32 if checks.kind(field) is int else tf.float32)
        return numbers, own

    def _settle(self, x: np.ndarray, x_adv: np.ndarray, radius: np.ndarray | None) -> np.ndarray:
        """Returns `x_adv` finite, inside [0, 1] and the ball of its `radius`; untouched where it is so already."""
        broken = ~np.isfinite(x_adv.reshape(len(x), -1)).all(-1)
        x_adv[broken] = x[broken]
        x_adv = np.clip(x_adv, 0.0, 1.0)
        if radius is not None:
            outside = self.distance(x, x_adv) > radius * (1 + 1e-5) + 1e-6
            eps = radius[outside] * norms.unit(self.norm, x.shape[1:])
            delta = tf.constant(x_adv[outside] - x[outside])
            x_adv[outside] = norms.inside(x[outside], delta, self.kind, eps).numpy()
        return x_adv

    def distance(self, x: np.ndarray, x_adv: np.ndarray) -> np.ndarray:
        """Returns the lengths [N] of the perturbations, in the attack's norm."""
        return norms.length(tf.constant(x_adv - x), self.kind).numpy() / norms.unit(self.norm, x.shape[1:])


class _Tally:
    """The best found so far for each sample, and who is still to be attacked."""

    def __init__(self, attack: Attack, x, y, clean: Answers, queries: np.ndarray, needless: np.ndarray):
        self._attack, self._x, self._y, self._clean, self._needless = attack, x, y, clean, needless
        self._best = Verified(x.copy(), clean.copy(), needless.copy())
        self._distance = np.zeros(len(x), np.float32)
        self._queries, self._gradients = queries, np.zeros(len(x), np.int64)

    def pending(self, restart: int) -> np.ndarray:
        """Returns the positions of the samples to be attacked in this restart."""
        if restart == 0 and not self._attack.early_stop:
            return np.arange(len(self._x))
        settled = self._needless if self._attack.eps is None else self._best.success
        return np.flatnonzero(~settled)

    def update(self, rows: np.ndarray, verified: Verified, queries: np.ndarray, gradients: np.ndarray) -> None:
        """Takes in one restart's results for the samples `rows`."""
        distance = self._attack.distance(self._x[rows], verified.images)
        better = np.ones(len(rows), bool)
        if self._attack.eps is None:
            better = verified.success & (~self._best.success[rows] | (distance < self._distance[rows]))
        self._best.put(rows[better], verified.of(better))
        self._distance[rows[better]] = distance[better]
        self._queries[rows] += queries
        self._gradients[rows] += gradients

    def result(self) -> AttackResult:
        x_adv, answers, success = self._best
        spent = self._distance, self._queries, self._gradients
        return AttackResult(x_adv, success, *spent, self._y, self._clean, answers, self._attack.targeted)
