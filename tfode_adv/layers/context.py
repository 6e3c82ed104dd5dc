"""What holds for every `ODEBlock` called inside a `with` block: other solver settings, a record of statistics."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from tfode_adv.solvers import block_options


class Statistics(NamedTuple):
    """What one call of an `ODEBlock` cost each sample, `[B]` each.

    Attributes:
        nfe: evaluations of the dynamics, those of the first step's choice included.
        accepted: steps taken; with stock TFP steps tried, as it counts evaluations alone.
        rejected: steps tried and rejected.
        status: a `tfode_adv.solvers.Status`, 0 for success.
        time: the time reached.
        at_rest: accepted steps whose error estimate was exactly zero, so that the field beside the state was asked how
            long the next may be; 0 with stock TFP, which does not ask.
        nfe_backward: evaluations differentiated by "backprop" or "backprop_steps"; None for an
            adjoint, whose cost is known only once it is solved.
    """

    nfe: tf.Tensor
    accepted: tf.Tensor
    rejected: tf.Tensor
    status: tf.Tensor
    time: tf.Tensor
    at_rest: tf.Tensor
    nfe_backward: tf.Tensor | None


class Start(NamedTuple):
    """What one call of an `ODEBlock` began with.

    Attributes:
        block: the block.
        state: its state at t = 0, `[B, ...]`, or a nested structure of them.
        condition: what it was given beside the state, or None.
    """

    block: Any
    state: Any
    condition: Any


class _Context(threading.local):
    def __init__(self):
        self.settings: list[dict[str, Any]] = []
        self.records: list[list] = []
        self.readers: list[list] = []
        self.starts: list[list[Start]] = []


_context = _Context()


@contextlib.contextmanager
def solver_settings(**settings: Any) -> Iterator[None]:
    """Every `ODEBlock` called inside has these settings in place of its own; its weights are the same.

    The settings are read when a block is called: inside a `tf.function`, when that is traced. They hold for one
    thread: with several replicas, enter the block inside of the function that a strategy runs.

    Args:
        **settings: those of `ODEBlock`, but for `final_time`; None leaves the block's own. `tol` and `num_steps` may be
            tensors, and `tol` one tolerance a sample, `[B]`.

    Raises:
        UsageError: for the name of a setting there is not, or a value out of range.
    """
    _context.settings.append(block_options.checked(settings, tensors=True))
    try:
        yield
    finally:
        _context.settings.pop()


def current_settings() -> dict[str, Any]:
    """The settings in force, inner `with` blocks before outer ones."""
    merged: dict[str, Any] = {}
    for settings in _context.settings:
        merged |= settings
    return merged


@contextlib.contextmanager
def record_statistics() -> Iterator[list[tuple[Any, Statistics]]]:
    """Collects (block, `Statistics`) for every `ODEBlock` called inside, in order.

    Inside a `tf.function` the statistics are tensors of its graph: return them from it. With several replicas,
    enter this inside of the function that a strategy runs.
    """
    records: list[tuple[Any, Statistics]] = []
    _context.records.append(records)
    try:
        yield records
    finally:
        _context.records.pop()


def record(block: Any, statistics: Statistics) -> None:
    """Adds one block's statistics to every record being kept."""
    for records in _context.records:
        records.append((block, statistics))


@contextlib.contextmanager
def blocks_read() -> Iterator[list]:
    """Collects every `ODEBlock` whose settings are read inside, be it called or asked for a trajectory."""
    blocks: list = []
    _context.readers.append(blocks)
    try:
        yield blocks
    finally:
        _context.readers.pop()


def note_read(block: Any) -> None:
    """Adds a block that is being solved to all that are collected."""
    for blocks in _context.readers:
        blocks.append(block)


@contextlib.contextmanager
def record_starts() -> Iterator[list[Start]]:
    """Collects a `Start` (block, state at t = 0, condition) for every `ODEBlock` called inside, in order.

    As with `record_statistics`, the states of a `tf.function` are tensors of its graph.
    """
    starts: list[Start] = []
    _context.starts.append(starts)
    try:
        yield starts
    finally:
        _context.starts.pop()


def note_start(block: Any, state: Any, condition: Any) -> None:
    """Adds what a block is called on to all records being kept."""
    for starts in _context.starts:
        starts.append(Start(block, state, condition))
