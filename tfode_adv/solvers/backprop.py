"""The gradient of a recorded solve: its accepted steps replayed backwards, step sizes held constant."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfode_adv.solvers import outputs as out
from tfode_adv.solvers import runge_kutta as rk
from tfode_adv.solvers.graph import in_xla, isolated
from tfode_adv.solvers.integrate import Solution, step_weights
from tfode_adv.solvers.status import Status
from tfode_adv.solvers.steps import Step, StepStore
from tfode_adv.solvers.tableaus import Tableau


class Gradients(NamedTuple):
    """Cotangents of the initial rows, and of the parameters where they were asked for (else empty)."""

    state: list[tf.Tensor]
    parameters: list[tf.Tensor]


class TapedSlope:
    """One evaluation of a field that can be pulled back, to the rows and to `parameters`."""

    def __init__(self, field: rk.Field, t: tf.Tensor, y: list[tf.Tensor], parameters: list[Any]):
        self._sources = (y, parameters)
        with tf.GradientTape(watch_accessed_variables=False) as self._tape:
            self._tape.watch(y)
            for parameter in parameters:
                self._tape.watch(parameter)
            self.slope = field(t, y)

    def pull_back(self, cotangent: list[tf.Tensor]) -> Gradients:
        gradients = self._tape.gradient(self.slope, self._sources, cotangent)
        flat = [
            tf.zeros_like(source) if gradient is None else tf.convert_to_tensor(gradient)
            for source, gradient in zip(tf.nest.flatten(self._sources), tf.nest.flatten(gradients), strict=True)
        ]
        count = len(self._sources[0])
        return Gradients(flat[:count], flat[count:])


def backpropagate(
    field: rk.Field,
    method: Tableau,
    t0: tf.Tensor,
    times: tf.Tensor,
    solution: Solution,
    cotangents: list[tf.Tensor],
    parameters: list[Any],
) -> Gradients:
    """Pulls the cotangents of a solve's outputs back to its initial rows and to `parameters`.

    Every accepted step is recomputed from its stored start, and differentiated; rejected steps cost nothing. The
    dependence of the step sizes on the state is left out; see `tfode_adv.solvers.step_sizes` for the gradient with it.

    Args:
        field: `field(t, y)`, reading `parameters`.
        cotangents: rows `[T, B, ...]` a component.
        parameters: variables and tensors; empty where only the state's gradient is wanted.
    """
    return _Backpropagation(field, method, t0, times, cotangents, parameters).run(solution)


def sweep(
    steps: StepStore,
    carried: list[tf.Tensor],
    parameters: list[Any],
    pull_back: Callable[[Any, list[tf.Tensor]], tuple[list[tf.Tensor], list[tf.Tensor]]],
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Goes back through the stored steps, last one first.

    Args:
        carried: cotangents at the end, `[B, ...]` each.
        pull_back: from a stored step and the cotangents of its samples at its end, `[m, ...]` each, to those at its
            start and the step's shares of the parameters' cotangents.

    Returns:
        The cotangents at the start, and the parameters'.
    """
    full = tf.shape(carried[0])[0]
    totals = [tf.zeros_like(p) for p in parameters]
    pull_back = isolated(pull_back)

    def body(i, carried, totals):
        step = steps.read(i)
        size = tf.size(step.t)
        whole = size == full

        def through_step() -> tuple[list[tf.Tensor], list[tf.Tensor]]:
            rows = tf.cond(whole, lambda: carried, lambda: [tf.gather(c, step.index) for c in carried])
            rows, shares = pull_back(step, rows)
            where = step.index[:, tf.newaxis]
            moved = tf.cond(
                whole,
                lambda: rows,
                lambda: [tf.tensor_scatter_nd_update(c, where, r) for c, r in zip(carried, rows, strict=True)],
            )
            moved = [tf.ensure_shape(r, c.shape) for r, c in zip(moved, carried, strict=True)]
            return moved, [a + b for a, b in zip(totals, shares, strict=True)]

        carried, totals = tf.cond(size > 0, through_step, lambda: (carried, totals))
        return i - 1, carried, totals

    shapes = tf.nest.map_structure(lambda x: x.shape, (carried, totals))
    _, carried, totals = tf.while_loop(
        lambda i, *_: i >= 0,
        body,
        (steps.count - 1, carried, totals),
        shape_invariants=(tf.TensorShape([]), *shapes),
        maximum_iterations=steps.size,
    )
    return carried, totals


def initial_cotangent(cotangent: tf.Tensor, times: tf.Tensor, t0: tf.Tensor) -> tf.Tensor:
    """What solution times equal to the initial time, which read the initial state itself, add to its cotangent."""
    here = times <= t0
    return tf.reduce_sum(tf.where(tf.reshape(here, [-1] + [1] * (cotangent.shape.rank - 1)), cotangent, 0), 0)


class _Backpropagation:
    def __init__(self, field, method, t0, times, cotangents, parameters):
        self.field, self.method, self.t0, self.times, self.parameters = field, method, t0, times, parameters
        self.end = times[-1]
        self.full = tf.shape(cotangents[0])[1]
        self.xla = in_xla()
        self.at_end = [c[-1] for c in cotangents]
        # The last time is handled by the weights of the step that passes it, the others apart.
        self.inner = [c[:-1] for c in cotangents] if times.shape[0] != 1 else None

    def run(self, solution: Solution) -> Gradients:
        succeeded = solution.totals.status == int(Status.OK)
        adjoint = [tf.where(tf.reshape(succeeded, [-1] + [1] * (c.shape.rank - 1)), c, 0) for c in self.at_end]
        adjoint, totals = sweep(solution.steps, adjoint, self.parameters, self._pull_back_step)
        if self.inner:
            times = self.times[:-1]
            adjoint = [a + initial_cotangent(c, times, self.t0) for a, c in zip(adjoint, self.inner, strict=True)]
        return Gradients(adjoint, totals)

    def _pull_back_step(self, step: Step, adjoint: list[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Cotangents of a step's start and its shares of the parameters', from those of its end.

        `adjoint` is the cotangent of the state at the end of the step or, for the step that passes the end of
        the integration, of the state read off its dense output there.
        """
        method, t, h = self.method, step.t, step.h
        weights = step_weights(method, tf.ones_like(t, tf.bool), t, step.t_next, self.end)
        start, extra = adjoint, None
        inside = tf.constant(False)
        if self.inner:
            inside, from_inside, extra = self._inner_outputs(step)
            start = [a + b for a, b in zip(start, from_inside, strict=True)]

        def source(i: int, later: dict[int, list[tf.Tensor]]) -> list[tf.Tensor]:
            """Cotangent of slope i, from those of the states that it moved."""
            factors = [weights[i]] if method.contributes(i) else []
            factors += [method.a[j][i] for j in later]
            cotangents = []
            for component, a in enumerate(adjoint):
                terms = ([a] if method.contributes(i) else []) + [g[component] for g in later.values()]
                total = rk.weighted_sum(factors, terms)
                total = tf.zeros_like(a) if total is None else rk.per_row(h, a) * total
                cotangents.append(total if extra is None else total + extra[i][component])
            return cotangents

        taped: list[TapedSlope] = []

        def evaluate(i: int) -> TapedSlope:
            state = rk.advance(step.y, h, method.a[i], [s.slope for s in taped[:i]])
            return TapedSlope(self.field, t + rk.exact(method.c[i], t.dtype) * h, state, self.parameters)

        conditional_last = method.first_same_as_last
        for i in range(method.stages - conditional_last):
            taped.append(evaluate(i))
        later: dict[int, list[tf.Tensor]] = {}
        shares = []
        if conditional_last:
            # Only a state read off the dense output depends on the slope at the step's end.
            i = method.stages - 1
            last = tf.cond(
                inside | tf.reduce_any(weights[i] != 0),
                lambda: evaluate(i).pull_back(source(i, {})),
                lambda: Gradients([tf.zeros_like(a) for a in adjoint], [tf.zeros_like(p) for p in self.parameters]),
            )
            later[i] = last.state
            shares.append(last.parameters)
        for i in reversed(range(len(taped))):
            pulled = taped[i].pull_back(source(i, later))
            later[i] = pulled.state
            shares.append(pulled.parameters)
        start = [tf.add_n([s, *parts]) for s, *parts in zip(start, *later.values(), strict=True)]
        return start, [tf.add_n(parts) for parts in zip(*shares, strict=True)]

    def _inner_outputs(self, step: Step) -> tuple[tf.Tensor, list[tf.Tensor], list[list[tf.Tensor]]]:
        """What the solution times inside a step (the last one aside) add: whether any, to its start, to its slopes."""
        everywhere = tf.ones_like(step.t, tf.bool)
        times = self.times[:-1]
        at = out.find_crossings(times, step.index, self.full, step.t, step.t_next, everywhere, self.xla, self.end)
        flat = [tf.reshape(c, tf.concat([[-1], tf.shape(c)[2:]], 0)) for c in self.inner]
        inside = tf.reduce_any(at.valid)
        count = tf.size(step.t)

        def nothing():
            zeros = [tf.zeros(tf.concat([[count], tf.shape(c)[1:]], 0), c.dtype) for c in flat]
            return zeros, [zeros for _ in range(self.method.stages)]

        start, slopes = tf.cond(inside, lambda: out.pull_back(self.method, at, step.h, flat, count), nothing)
        return inside, start, slopes
