"""Runs an attack's compiled step over samples that each take their own time.

A sample leaves the batch as soon as it is done, and one that waits takes its place, so the batch stays
full. Those that are done are verified together. One whose success does not hold on that fresh forward pass,
as happens on randomised models, goes on with the steps it has left.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfode_adv.attacks.engine import Program
from tfode_adv.attacks.verification import Verification, Verified
from tfode_adv.models.oracle import Oracle, padded


@dataclasses.dataclass(frozen=True)
class Work:
    """One restart of an attack: images, labels, clean logits and numbers [n] of the samples, and how to run them.

    `oracle` is the model to be asked; `size` is how many samples run at once; `verify` maps positions [k] and found
    images [k, ...] to the images as they count, the answers of a fresh forward pass and whether it is fooled; `own`
    holds what each sample has a value of its own of, [n]; `progress` is told how many samples have finished, each once.
    """

    program: Program
    oracle: Oracle
    x: np.ndarray
    y: np.ndarray
    clean: np.ndarray
    index: np.ndarray
    own: dict[str, np.ndarray]
    restart: int
    numbers: dict[str, tf.Tensor]
    size: int
    verify: Callable[[np.ndarray, np.ndarray], Verified]
    progress: Callable[[int], None]

    @property
    def classes(self) -> int:
        """How many classes the model tells apart."""
        return self.clean.shape[-1]


class Found(NamedTuple):
    """What became of some samples: positions [n], what was found, steps and verifying passes [n]."""

    rows: np.ndarray
    verified: Verified
    steps: np.ndarray
    passes: np.ndarray


class _Samples(NamedTuple):
    """Positions [n] of some samples, and their data, [n, ...] or padded to more."""

    rows: np.ndarray
    data: dict


def run(work: Work) -> Iterator[Found]:
    """Attacks the samples of `work`, at most `work.size` at once, and yields them as they are verified.

    An attack on a randomised model is not ended by one lucky draw: who is not turned has taken all steps.
    """
    return _Pool(work).run()


class _Pool:
    """The samples by where they are: still to begin, in the batch, done, or sent back as refuted."""

    def __init__(self, work: Work):
        self._work = work
        self._waiting = np.arange(len(work.x))
        self._batch: _Samples | None = None
        self._done: list[_Samples] = []
        self._refuted: list[_Samples] = []
        self._verification = Verification(work.verify, len(work.x), work.classes)
        self._stands = int(work.numbers["max_steps"]) <= 0

    def run(self) -> Iterator[Found]:
        while True:
            self._fill()
            if self._batch:
                self._step()
            done = sum(len(part.rows) for part in self._done)
            to_run = self._batch or self._refuted or len(self._waiting)
            if done >= self._work.size or (done and not to_run):
                yield self._verify()
            elif not to_run:
                return

    def _fill(self) -> None:
        """Takes samples into the batch, the refuted first, once a quarter of it is free."""
        size = self._work.size
        room = size - (len(self._batch.rows) if self._batch else 0)
        if room < size - size * 3 // 4 or not (self._refuted or len(self._waiting)):
            return
        parts = [self._batch] if self._batch else []
        while self._refuted and len(self._refuted[0].rows) <= room:
            parts.append(self._refuted.pop(0))
            room -= len(parts[-1].rows)
        new, self._waiting = np.split(self._waiting, [room])
        if len(new):
            parts.append(self._started(new))
        self._batch = _joined(parts, size)

    def _started(self, new: np.ndarray) -> _Samples:
        work, rows = self._work, padded(new, self._work.size)
        samples = work.x[rows], work.y[rows], work.clean[rows], work.index[rows]
        own = {name: values[rows] for name, values in work.own.items()}
        return _Samples(new, work.program.start(*samples, own, work.restart, work.numbers))

    def _step(self) -> None:
        """Takes the batch one step on, and those that are then done out of it."""
        rows, data = self._batch
        if not self._stands:
            data = self._work.program.step(data, self._work.numbers)
        done = data["done"].numpy()[: len(rows)]
        self._batch = _Samples(rows, data)
        if not done.any():
            return
        # Who comes back has been counted before.
        self._work.progress(int((self._verification.refutations[rows[done]] == 0).sum()))
        self._done.append(_chosen(self._batch, np.flatnonzero(done)))
        stay = np.flatnonzero(~done)
        self._batch = _chosen(self._batch, stay, self._work.size) if len(stay) else None

    def _verify(self) -> Found:
        """Returns the done samples whose answers are final, and sends the others back."""
        (rows, data), self._done = _joined(self._done), []
        verified = self._verification.judge(rows, data["state"]["x_adv"].numpy().copy())
        out = verified.success | data["over"].numpy()
        again = _Samples(rows, {**data, "refuted": tf.ones_like(data["refuted"])})
        back, quarter, steps = np.flatnonzero(~out), max(1, self._work.size // 4), data["k"].numpy()
        # In parts that always find room: the batch is filled up once a quarter of it is free.
        for first in range(0, len(back), quarter):
            self._refuted.append(_chosen(again, back[first : first + quarter]))
        return Found(rows[out], verified.of(out), steps[out], self._verification.passes[rows[out]])


def _chosen(samples: _Samples, which: np.ndarray, size: int | None = None) -> _Samples:
    """Returns those of `samples` at the places `which`, their data padded for batches of `size` if it is given."""
    places = which if size is None else padded(which, size)
    return _Samples(samples.rows[which], tf.nest.map_structure(lambda t: tf.gather(t, places), samples.data))


def _joined(parts: list[_Samples], size: int | None = None) -> _Samples:
    """Returns all samples of `parts` in one, their data padded for batches of `size` if it is given."""
    offsets = np.cumsum([0] + [part.data["k"].shape[0] for part in parts[:-1]])
    places = np.concatenate([first + np.arange(len(part.rows)) for first, part in zip(offsets, parts, strict=True)])
    data = tf.nest.map_structure(lambda *t: tf.concat(t, 0), *[part.data for part in parts])
    both = _chosen(_Samples(np.arange(data["k"].shape[0]), data), places, size)
    return _Samples(np.concatenate([part.rows for part in parts]), both.data)
