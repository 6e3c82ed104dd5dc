"""Runs an attack's compiled step over a pool of samples that each take their own time.

A sample leaves the pool as soon as it is done, and one that waits takes its place, so the batch stays
full. Programs are traced once for each model and kind of attack, with the number of samples and all
numeric hyperparameters left open: a grid of eps, or a shrinking batch, runs the same program.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from tfode_adv.attacks import randomness, sources


@dataclasses.dataclass(frozen=True)
class Batch:
    """What the step of an attack is told about its samples.

    x [B, ...] the clean images; y [B] labels; key [B] names the sample's random numbers (fold the step
    and the purpose into it); k [B] steps taken; restart [B]; model: images to logits.
    """

    x: tf.Tensor
    y: tf.Tensor
    key: tf.Tensor
    k: tf.Tensor
    restart: tf.Tensor
    model: Callable[[tf.Tensor], tf.Tensor]


class Program:
    """The compiled parts of one kind of attack on one model: `logits`, `start` and `step`."""

    def __init__(self, model, attack, logits):
        self._attack = attack
        self.model = sources.as_function(model)
        self.logits = logits
        self._start = self._step = None

    def start(self, x, y, index, restart: int, numbers: dict[str, tf.Tensor]) -> dict:
        """Returns the pool's data of new samples: images, labels, keys, step counts and state."""
        arguments = (
            tf.constant(x),
            tf.constant(y),
            tf.constant(index, tf.int64),
            tf.constant(restart, tf.int64),
            numbers,
        )
        if self._start is None:
            self._start = _compile(self._trace_start, *_open(arguments[:3]), *_closed(arguments[3:]))
        return self._start(*arguments)

    def step(self, data: dict, numbers: dict[str, tf.Tensor]) -> dict:
        """Returns `data` one step on, with "done" [B] in its state telling which samples are."""
        if self._step is None:
            self._step = _compile(self._trace_step, _open(data), _closed(numbers))
        return self._step(data, numbers)

    def _with(self, numbers):
        traced = copy.copy(self._attack)
        for name, value in numbers.items():
            object.__setattr__(traced, name, value)
        return traced

    def _trace_start(self, x, y, index, restart, numbers):
        key = randomness.fold(numbers["seed"], index, restart)
        zeros = tf.zeros_like(y)
        data = {"x": x, "y": y, "key": key, "k": zeros, "restart": zeros + tf.cast(restart, y.dtype)}
        state = self._with(numbers).start(self._batch(data))
        return {**data, "state": {**state, "done": tf.zeros_like(y, tf.bool)}}

    def _trace_step(self, data, numbers):
        attack = self._with(numbers)
        state = attack.step(self._batch(data), data["state"])
        k = data["k"] + 1
        done = state.get("done", tf.zeros_like(k, tf.bool)) | (k >= tf.cast(numbers["max_steps"], k.dtype))
        return {**data, "k": k, "state": {**state, "done": done}}

    def _batch(self, data) -> Batch:
        return Batch(model=self.model, **{name: value for name, value in data.items() if name != "state"})


def _compile(function, *specification):
    return tf.function(function, autograph=False).get_concrete_function(*specification)


def _closed(tree):
    return tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), tree)


def _open(tree):
    return tf.nest.map_structure(lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), tree)


@functools.lru_cache(maxsize=32)
def program(model, attack, image_shape: tuple[int, ...], settings) -> Program:
    """Returns the program for `attack`, from the last 32 used if it is one of them.

    `settings` is whatever else the trace depends on: see `base.trace_settings`.
    """
    return Program(model, attack, logits(model, image_shape, settings))


@functools.lru_cache(maxsize=32)
def logits(model, image_shape: tuple[int, ...], settings):
    """Returns the compiled model, shared by all attacks on it."""
    images = tf.TensorSpec([None, *image_shape], tf.float32)
    return tf.function(sources.as_function(model), input_signature=[images], autograph=False)


def bucket(count: int, size: int) -> int:
    """Returns the batch size to run `count` samples at: few different ones, none far from `count`."""
    quantum = max(1, size // 8)
    if count <= quantum:
        return min(size, 1 << (count - 1).bit_length())
    return min(size, -(-count // quantum) * quantum)


def predict(program: Program, x: np.ndarray, size: int) -> np.ndarray:
    """Returns the model's logits [N, K] for images [N, ...], `size` at a time."""
    parts = []
    for first in range(0, len(x), size):
        part = x[first : first + size]
        parts.append(program.logits(tf.constant(_padded(part, size))).numpy()[: len(part)])
    return np.concatenate(parts)


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    extra = bucket(len(values), size) - len(values)
    return np.concatenate([values, np.repeat(values[:1], extra, 0)]) if extra else values


@dataclasses.dataclass(frozen=True)
class Work:
    """One restart of an attack: images, labels and numbers [n] of the samples, and how to run them.

    `classes` is how many the model tells apart; `size` is how many samples run at once; `progress` is told how
    many have finished.
    """

    program: Program
    x: np.ndarray
    y: np.ndarray
    index: np.ndarray
    classes: int
    restart: int
    numbers: dict[str, tf.Tensor]
    size: int
    progress: Callable[[int], None]


def run(work: Work) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Attacks the samples of `work`, at most `work.size` at once, until every one is done.

    Yields, as samples finish: their positions [n], their adversarial images [n, ...] and how many
    steps they took [n].
    """
    size, program = work.size, work.program
    waiting, active, data = np.arange(len(work.x)), np.arange(0), None
    while len(waiting) or len(active):
        if len(waiting) and len(active) <= size * 3 // 4:
            new, waiting = np.split(waiting, [size - len(active)])
            rows = _padded(new, size)
            fresh = program.start(work.x[rows], work.y[rows], work.index[rows], work.restart, work.numbers)
            data = _join(data, len(active), fresh, len(new), size)
            active = np.concatenate([active, new])
        data = program.step(data, work.numbers)
        done = data["state"]["done"].numpy()[: len(active)]
        if done.any():
            out = np.flatnonzero(done)
            yield (
                active[out],
                tf.gather(data["state"]["x_adv"], out).numpy(),
                tf.gather(data["k"], out).numpy(),
            )
            stay = np.flatnonzero(~done)
            active = active[stay]
            data = _take(data, _padded(stay, size)) if len(stay) else None


def _join(data, count: int, fresh, new: int, size: int):
    if data is None:
        return fresh
    offset = data["k"].shape[0]
    both = tf.nest.map_structure(lambda a, b: tf.concat([a, b], 0), data, fresh)
    return _take(both, _padded(np.concatenate([np.arange(count), offset + np.arange(new)]), size))


def _take(data, rows: np.ndarray):
    return tf.nest.map_structure(lambda t: tf.gather(t, rows), data)
