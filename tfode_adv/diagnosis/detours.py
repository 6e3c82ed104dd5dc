"""Ways round a model's own gradient: a twin, no ODE, and where it looks hidden, straight through layers, a student."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import tensorflow as tf

from tfode_adv import layers
from tfode_adv.diagnosis import distilled_student, straight_through, without_ode
from tfode_adv.diagnosis.attack_table import AVERAGED, BYPASS, STRAIGHT, STUDENT, TWIN
from tfode_adv.diagnosis.measurements import Bench, Tolerance
from tfode_adv.models.oracle import as_function

# Of the images, so many are enough to see what a layer does.
SHOWN = 16


@dataclasses.dataclass(frozen=True)
class Hiding:
    """The names of the layers whose gradient is missing or false."""

    layers: list[str]


def always(bench: Bench) -> dict[str, Callable]:
    """Those tried on every model: the user's twin, and what costs little: a model with ODE blocks without them, mean
    gradients of one that has none."""
    found = {} if bench.twin is None else {TWIN: functools.cache(lambda: _compiled(bench.twin))}
    if not bench.probe.blocks:
        return {**found, AVERAGED: _nothing}
    return {**found, BYPASS: functools.cache(lambda: _compiled(without_ode.bypass(bench.probe.original)))}


def when_hidden(bench: Bench, tol: Tolerance) -> dict[str, Callable]:
    """Those tried on a model whose gradient looks hidden."""

    @functools.cache
    def past_layers():
        if not isinstance(bench.probe.original, keras.layers.Layer):
            return [], None
        with layers.solver_settings(**_settings(bench, tol)):
            names, way = straight_through.detour(bench.probe.original, bench.images.x[:SHOWN])
        return names, way and _compiled(functools.partial(_solved, way, _settings(bench, tol)))

    @functools.cache
    def taught():
        def ask(x):
            return bench.probe.logits(x, **bench.forward(tol))

        protocol = bench.protocol
        student = distilled_student.distil(
            ask, bench.images.x, norm=protocol.norm, eps=protocol.eps, seed=protocol.seed
        )
        return _compiled(student)

    def look() -> Hiding:
        return Hiding(past_layers()[0])

    found = {AVERAGED: _nothing, STUDENT: taught}
    if bench.piece("layers without a gradient", tol, Hiding, look).layers:
        found[STRAIGHT] = lambda: past_layers()[1]
    return found


def _settings(bench: Bench, tol: Tolerance) -> dict:
    return {"on_failure": "status", **bench.forward(tol)} if bench.probe.blocks else {}


def _compiled(model: Callable) -> Callable:
    return tf.function(as_function(model), autograph=False, reduce_retracing=True)


def _solved(way: Callable, settings: dict, images):
    with layers.solver_settings(**settings):
        return way(images)


def _nothing() -> None:
    """Mean gradients are the model's own: they need no other."""
