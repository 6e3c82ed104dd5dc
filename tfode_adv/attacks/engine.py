"""Compiles an attack's start and step for a model.

Programs are traced once for each model and kind of attack, with the number of samples and all numeric
hyperparameters left open: a grid of eps, or a shrinking batch, runs the same program. `retrying_pool` runs them.

A model that is itself a program, traced and differentiated once (see `models.oracle.runs_compiled`), has the steps of
gradient attacks run around it one operation at a time. Compiling each would differentiate and optimise its graph anew,
which for adaptive solvers takes longer than the attack.
"""

import dataclasses
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfode_adv.attacks import losses, random_streams
from tfode_adv.models.oracle import as_function, key_of, runs_compiled
from tfode_adv.models.traces import Traces, settings_key


@dataclasses.dataclass(frozen=True)
class Batch:
    """What the step of an attack is told about its samples.

    x [B, ...] the clean images; y [B] labels; clean [B, K] the model's logits for them; key [B] names the
    sample's random numbers (fold the step and the purpose into it); k [B] steps taken; restart [B];
    refuted [B] whether the sample was done before this step, and a second look found it not fooled, which
    happens on randomised models only; model: images to logits [B, K].
    """

    x: tf.Tensor
    y: tf.Tensor
    clean: tf.Tensor
    key: tf.Tensor
    k: tf.Tensor
    restart: tf.Tensor
    refuted: tf.Tensor
    model: Callable[[tf.Tensor], tf.Tensor]

    @property
    def classes(self) -> int:
        """How many classes the model tells apart."""
        return self.clean.shape[-1]

    @property
    def level(self) -> tf.Tensor:
        """The factor [B, 1] that brings each sample's logits to a usual scale: nearly always 1."""
        return losses.level(self.clean)


class Numbers(types.SimpleNamespace):
    """The numeric hyperparameters that a step is told, by their names, but for those that are None.

    Each is a scalar tensor, or [B] where each sample has its own; lengths are in the unit of the geometry (`norms`).
    """


State = dict[str, Any]
"""What an attack keeps of its samples from step to step: tensors [B, ...], or dicts of them."""


class Program:
    """The compiled parts of one kind of attack on one model: `start` and `step`."""

    def __init__(self, model, attack, noting):
        self._attack, self._noting = attack, noting
        self.model = as_function(model)
        gradients = "source" in {field.name for field in dataclasses.fields(attack)}
        self._around = gradients and runs_compiled(model)
        self._start = self._step = None

    def start(
        self,
        x: np.ndarray,
        y: np.ndarray,
        clean: np.ndarray,
        index: np.ndarray,
        own: dict[str, np.ndarray],
        restart: int,
        numbers: dict[str, tf.Tensor],
    ) -> dict:
        """Returns the pool's data of new samples: what `Batch` holds of them, and their state."""
        arguments = (
            tf.constant(x),
            tf.constant(y),
            tf.constant(clean),
            tf.constant(index, tf.int64),
            {name: tf.constant(values) for name, values in own.items()},
            tf.constant(restart, tf.int64),
            numbers,
        )
        if self._around:
            return self._trace_start(*arguments)
        if self._start is None:
            self._start = _compile(self._noting(self._trace_start), *_open(arguments[:5]), *_closed(arguments[5:]))
        return self._start(*arguments)

    def step(self, data: dict, numbers: dict[str, tf.Tensor]) -> dict:
        """Returns `data` one step on: "done" [B] tells who leaves the batch, "over" [B] who could not go on."""
        if self._around:
            return self._trace_step(data, numbers)
        if self._step is None:
            self._step = _compile(self._noting(self._trace_step), _open(data), _closed(numbers))
        return self._step(data, numbers)

    def _trace_start(self, x, y, clean, index, own, restart, numbers):
        key = random_streams.fold(numbers["seed"], index, restart)
        zeros, no = tf.zeros_like(y), tf.zeros_like(y, tf.bool)
        data = {"x": x, "y": y, "clean": clean, "key": key, "k": zeros, "refuted": no, "own": own}
        data["restart"] = zeros + tf.cast(restart, y.dtype)
        state = self._attack.start(self._batch(data), Numbers(**numbers, **own))
        over = no | (numbers["max_steps"] <= 0)
        return {**data, "state": {**state, "done": no}, "done": over, "over": over}

    def _trace_step(self, data, numbers):
        state = dict(self._attack.step(self._batch(data), data["state"], Numbers(**numbers, **data["own"])))
        k, no = data["k"] + 1, tf.zeros_like(data["refuted"])
        over = state.pop("over", no) | (k >= tf.cast(numbers["max_steps"], k.dtype))
        success = state.get("done", no)
        state = {**state, "done": success}
        return {**data, "k": k, "refuted": no, "state": state, "done": success | over, "over": over}

    def _batch(self, data) -> Batch:
        fields = {field.name: data[field.name] for field in dataclasses.fields(Batch) if field.name != "model"}
        classes = data["clean"].shape[-1]

        def model(x):
            logits = self.model(x)
            # A black box (`tf.numpy_function`) tells no shape; the clean pass has.
            known = logits.shape.rank == 2 and logits.shape[-1] is not None
            return logits if known else tf.ensure_shape(logits, [None, classes])

        return Batch(model=model, **fields)


def _compile(function, *specification):
    return tf.function(function, autograph=False).get_concrete_function(*specification)


def _closed(tree):
    return tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), tree)


def _open(tree):
    return tf.nest.map_structure(lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), tree)


_programs = Traces()


def program(model: Any, attack: Any, image_shape: tuple[int, ...]) -> Program:
    """Returns the program for `attack`, or another of its structure, from the last 32 used if it is one of them."""
    # The sources' models by themselves: the structure's own hash leaves them out.
    models = key_of(model), *map(key_of, attack.source.models)
    key = models, attack.structure(), tuple(image_shape), settings_key()
    return _programs.find(key, lambda noting: Program(model, attack, noting))
