"""DeepFool, Boundary and HopSkipJump, as Foolbox 3 has them (extra `foolbox`).

They look for the nearest adversarial image; with an eps given, what they find is clipped to the ball
and judged again, as MSML 2021 did. Where Foolbox finds no starting point, or loses it because the model
is randomised, the sample counts as not turned.
"""

import dataclasses
import importlib
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfode_adv.attacks import checks, losses
from tfode_adv.attacks.base import Attack
from tfode_adv.attacks.checks import number
from tfode_adv.attacks.gradient_sources import Source, Through
from tfode_adv.attacks.retrying_pool import Work
from tfode_adv.attacks.verification import Verified
from tfode_adv.errors import UsageError


def _library(attack: str):
    try:
        return importlib.import_module("foolbox")
    except ImportError:
        message = f"{attack} needs Foolbox, which is not installed: install tfode_adv with its extra foolbox"
        raise UsageError(message) from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Foolbox(Attack):
    norm: str = "l2"
    eps: checks.Lengths | None = number(None, low=0, length=True)

    norms: ClassVar[tuple[str, ...]] = ("l2", "l2rms", "linf")

    def __post_init__(self):
        super().__post_init__()
        _library(self.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepFool(_Foolbox):
    """DeepFool (Moosavi-Dezfooli et al. 2016): step after step to the nearest linearised boundary.

    Args:
      steps: the most steps.
      overshoot: how much further than the boundary each goes.
      candidates: likeliest classes whose boundaries are looked at.
      source: `Through`, or None for the model's own gradient.
    """

    steps: int = number(50, low=0)
    overshoot: float = number(0.02, low=0)
    candidates: int = number(10, structural=True, low=2)
    source: Source | None = None

    name: ClassVar[str] = "deepfool"
    summary: ClassVar[str] = "nearest linearised boundary (Moosavi-Dezfooli et al. 2016), by Foolbox"

    def __post_init__(self):
        super().__post_init__()
        if type(self.source) not in (Source, Through):
            raise UsageError(f"source is {self.source!r}, but deepfool takes Through or None")

    def search(self, work: Work) -> tuple[Verified, np.ndarray, np.ndarray]:
        library = _library(self.name)
        kinds = {"linf": library.attacks.LinfDeepFoolAttack, "l2": library.attacks.L2DeepFoolAttack}
        attack = kinds[self.kind](steps=self.steps, overshoot=self.overshoot, candidates=self.candidates)
        # Where no gradient comes through, Foolbox is to see zeros, not None.
        logits = tf.function(
            lambda x: self.source.logits(work.program.model, x) + 0.0 * tf.reduce_sum(x), autograph=False
        )
        self._see_gradient(work)
        x_new, queries = work.x.copy(), np.zeros(len(work.x), np.int64)
        for first in range(0, len(work.x), work.size):
            part = slice(first, first + work.size)
            spent = _OpenRows(logits, work.y[part], losses.level(tf.constant(work.clean[part])))
            model = library.TensorFlowModel(spent, bounds=(0, 1))
            x_new[part] = attack.run(model, tf.constant(work.x[part]), tf.constant(work.y[part], tf.int64)).numpy()
            queries[part] = spent.rows
            work.progress(len(spent.rows))
        verified = work.verify(np.arange(len(x_new)), x_new)
        # The first pass ranks the classes; every later one is differentiated.
        return verified, queries + 1, queries - 1

    def _see_gradient(self, work):
        """Traces a gradient, and runs none: raises if none comes through the model, where Foolbox would not say why."""
        function = tf.function(
            lambda x: self.source.differentiate(work.program.model, lambda z: z[:, 0], x)[2], autograph=False
        )
        function.get_concrete_function(tf.TensorSpec([None, *work.x.shape[1:]], tf.float32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _DecisionBased(_Foolbox):
    """Attacks that see decisions only. Foolbox couples the samples of a batch, so each is attacked alone.

    They run on Foolbox's NumPy backend around the compiled model, with NumPy's generator seeded for
    each sample and put back afterwards.
    """

    def search(self, work: Work) -> tuple[Verified, np.ndarray, np.ndarray]:
        library = _library(self.name)
        attack = self.build(library.attacks)
        spent = _Counter(work)
        model = library.NumPyModel(spent, bounds=(0, 1))
        x_new, queries = work.x.copy(), np.zeros(len(work.x), np.int64)
        kept = np.random.get_state()
        try:
            for i in range(len(x_new)):
                before = spent.rows
                np.random.seed(np.random.SeedSequence([self.seed, int(work.index[i])]).generate_state(4))
                x_new[i] = self._one(attack, model, work.x[i : i + 1], work.y[i : i + 1])[0]
                queries[i] = spent.rows - before
                work.progress(1)
        finally:
            np.random.set_state(kept)
        verified = work.verify(np.arange(len(x_new)), x_new)
        return verified, queries + 1, queries * 0

    def _one(self, attack, model, x, y):
        try:
            return attack.run(model, x, y.astype(np.int64))
        except AssertionError:
            return x
        except ValueError as error:
            # Any other is the model's own, and none of ours to hide.
            if "init_attack failed" not in str(error):
                raise
            return x

    def build(self, attacks: Any) -> Any:
        """Returns Foolbox's attack."""
        raise TypeError(f"{type(self).__name__} builds no attack")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boundary(_DecisionBased):
    """The boundary attack (Brendel et al. 2018): a walk along the boundary towards the image.

    Args:
      steps: the most steps of the walk; Foolbox's own default is 25,000.
    """

    steps: int = number(5000, low=0)

    name: ClassVar[str] = "boundary"
    summary: ClassVar[str] = "decisions only: walk along the boundary (Brendel et al. 2018), by Foolbox"
    norms: ClassVar[tuple[str, ...]] = ("l2", "l2rms")

    def build(self, attacks: Any) -> Any:
        return attacks.BoundaryAttack(steps=self.steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HopSkipJump(_DecisionBased):
    """HopSkipJump (Chen et al. 2020): gradient estimates at the boundary, from decisions.

    Args:
      steps: iterations; the n-th estimates a gradient from 100 sqrt(n) queries.
    """

    steps: int = number(64, low=0)

    name: ClassVar[str] = "hopskipjump"
    summary: ClassVar[str] = "decisions only: estimated gradients (Chen et al. 2020), by Foolbox"

    def build(self, attacks: Any) -> Any:
        return attacks.HopSkipJumpAttack(steps=self.steps, constraint=self.kind)


class _OpenRows:
    """A model that counts, for each image of a batch [B], the passes until it is no longer of its class.

    Foolbox runs the whole batch until the last image is; so the counts are as if each had been alone.
    It takes the logits for of a usual scale, and ties for a boundary already crossed: here they are, and are not.
    """

    def __init__(self, function, y, level):
        self._function, self._y, self._level = function, y, level
        self._open, self.rows = np.ones(len(y), bool), np.zeros(len(y), np.int64)

    def __call__(self, x):
        logits = losses.untied(self._level * self._function(x))
        self.rows += self._open
        self._open &= logits.numpy().argmax(-1) == self._y
        return logits


class _Counter:
    """A model that counts the images it is asked about, and passes on as many at once as it may."""

    def __init__(self, work: Work):
        self._work = work
        self.rows = 0

    def __call__(self, x):
        self.rows += len(x)
        return self._work.oracle.ask(x, self._work.size).logits
