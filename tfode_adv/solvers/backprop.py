"""The gradient of a recorded solve: its accepted steps pulled back one by one, step sizes held constant."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfode_adv.solvers import dense_output as out
from tfode_adv.solvers import runge_kutta as rk
from tfode_adv.solvers.graph_mode import in_xla, isolated
from tfode_adv.solvers.integrate import Solution, step_weights
from tfode_adv.solvers.pull_back import Gradients, Slope
from tfode_adv.solvers.status import Status
from tfode_adv.solvers.step_store import Step, StepStore
from tfode_adv.solvers.tableaus import Tableau


def backpropagate(
    evaluate: Callable[[tf.Tensor, list[tf.Tensor]], Slope],
    method: Tableau,
    t0: tf.Tensor,
    times: tf.Tensor,
    solution: Solution,
    cotangents: list[tf.Tensor],
    parameters: list[Any],
) -> Gradients:
    """Pulls the cotangents of a solve's outputs back to its initial rows and to `parameters`.

    The evaluations of an accepted step are pulled back from what was kept of them; or else the step is recomputed
    from its stored start. A rejected step costs nothing, or its share of a kept iteration that most samples accepted.
    The dependence of the step sizes on the state is left out; see `tfode_adv.solvers.backprop_step_sizes`
    for the gradient with it.

    Args:
        evaluate: `evaluate(t, y)`, an evaluation of the field, to be pulled back to `y` and `parameters`.
        cotangents: rows `[T, B, ...]` a component.
        parameters: variables and tensors; empty where only the state's gradient is wanted.
    """
    return _Backpropagation(evaluate, method, t0, times, solution, cotangents, parameters).run()


def sweep(
    steps: StepStore,
    carried: list[tf.Tensor],
    parameters: list[Any],
    pull_back: Callable[[tf.Tensor, Any, list[tf.Tensor]], tuple[list[tf.Tensor], list[tf.Tensor]]],
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Goes back through the stored steps, last one first.

    Args:
        carried: cotangents at the end, `[B, ...]` each.
        pull_back: from a stored step's number, the step, and the cotangents of its samples at its end, `[m, ...]`
            each, to those at its start and the step's shares of the parameters' cotangents.

    Returns:
        The cotangents at the start, and the parameters'.
    """
    full = tf.shape(carried[0])[0]
    totals = [tf.zeros_like(p) for p in parameters]
    pull_back = isolated(pull_back)

    def body(i, carried, totals):
        step = steps.read(i)
        size = tf.size(step.t)
        whole = tf.equal(size, full)

        def through_step() -> tuple[list[tf.Tensor], list[tf.Tensor]]:
            rows = tf.cond(whole, lambda: carried, lambda: [tf.gather(c, step.index) for c in carried])
            rows, shares = pull_back(i, step, rows)
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


class _StepCotangents:
    """Cotangents of a step's slopes, to be asked for from the last stage to the first."""

    def __init__(self, method: Tableau, h: tf.Tensor, weights: list[tf.Tensor], adjoint: list[tf.Tensor], extra):
        self._method, self._h, self._weights, self._adjoint, self._extra = method, h, weights, adjoint, extra
        self._later: dict[int, list[tf.Tensor]] = {}
        self._shares: list[list[tf.Tensor]] = []

    def of(self, i: int) -> list[tf.Tensor]:
        """Of slope `i`, from those of the states that it moved."""
        method = self._method
        factors = [self._weights[i]] if method.contributes(i) else []
        factors += [method.a[j][i] for j in self._later]
        cotangents = []
        for component, a in enumerate(self._adjoint):
            terms = ([a] if method.contributes(i) else []) + [g[component] for g in self._later.values()]
            total = rk.weighted_sum(factors, terms)
            total = tf.zeros_like(a) if total is None else rk.per_row(self._h, a) * total
            cotangents.append(total if self._extra is None else total + self._extra[i][component])
        return cotangents

    def pulled(self, i: int, gradients: Gradients) -> None:
        """Takes note of what slope `i` was pulled back to."""
        self._later[i] = gradients.state
        self._shares.append(gradients.parameters)

    def sums(self, start: list[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """The cotangent `start` of the step's start with what came back added to it, and the parameters' shares."""
        state = [tf.add_n([s, *parts]) for s, *parts in zip(start, *self._later.values(), strict=True)]
        return state, [tf.add_n(parts) for parts in zip(*self._shares, strict=True)]


class _Backpropagation:
    def __init__(self, evaluate, method, t0, times, solution, cotangents, parameters):
        self.evaluate, self.method, self.t0, self.times, self.parameters = evaluate, method, t0, times, parameters
        self.solution = solution
        self.succeeded = tf.equal(solution.totals.status, int(Status.OK))
        self.end = times[-1]
        self.full = tf.shape(cotangents[0])[1]
        self.xla = in_xla()
        self.at_end = [c[-1] for c in cotangents]
        # The last time is handled by the weights of the step that passes it, the others apart.
        self.inner = [c[:-1] for c in cotangents] if times.shape[0] != 1 else None
        kept = solution.steps.kept
        self.kept = kept if kept and (not parameters or kept.split.to_parameters) else None
        # A kept first stage is the last evaluation of the step before.
        self.hands_on = self.kept is not None and method.first_same_as_last

    def run(self) -> Gradients:
        carried = _only(self.succeeded, self.at_end)
        if self.hands_on:
            carried = carried + [tf.zeros_like(c) for c in carried]
        carried, totals = sweep(self.solution.steps, carried, self.parameters, self._pull_back)
        adjoint, slope = self._parts(carried)
        if self.hands_on:
            initial = isolated(self._pull_back_initial)(slope)
            adjoint = [a + b for a, b in zip(adjoint, initial.state, strict=True)]
            totals = [a + b for a, b in zip(totals, initial.parameters, strict=True)]
        if self.inner:
            times = self.times[:-1]
            adjoint = [a + initial_cotangent(c, times, self.t0) for a, c in zip(adjoint, self.inner, strict=True)]
        return Gradients(adjoint, totals)

    def _parts(self, carried: list[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Cotangents of the state, and those of the slope there that the step before is to pull back, if any."""
        return carried[: len(self.at_end)], carried[len(self.at_end) :]

    def _pull_back(self, i: tf.Tensor, step: Step, carried: list[tf.Tensor]) -> Gradients:
        """Cotangents at a step's start, from those at its end, and its shares of the parameters'."""
        adjoint, slope = self._parts(carried)
        return self._kept_or(
            i + 1,
            lambda: self._from_kept(step, adjoint, slope, self.kept.read(i + 1)),
            lambda: self._recomputed(step, adjoint, slope),
            like=carried,
        )

    def _pull_back_initial(self, slope: list[tf.Tensor]) -> Gradients:
        pulled = self._kept_or(
            0,
            lambda: self.kept.split.pull_back(self.kept.read(0)[0], slope, bool(self.parameters)),
            lambda: self.evaluate(tf.fill([self.full], self.t0), self.solution.start).pull_back(slope),
            like=slope,
        )
        # A sample that starts from NaN has left some.
        parameters = [tf.where(tf.reduce_any(self.succeeded), p, tf.zeros_like(p)) for p in pulled.parameters]
        return Gradients(_only(self.succeeded, pulled.state), parameters)

    def _kept_or(
        self,
        group: tf.Tensor | int,
        from_kept: Callable[[], Gradients],
        recomputed: Callable[[], Gradients],
        like: list[tf.Tensor],
    ) -> Gradients:
        """What was kept of a group of evaluations pulled back if it can be, else the evaluations made again."""
        if not self.kept:
            return recomputed()

        def tried() -> tuple[tf.Tensor, Gradients]:
            pulled = from_kept()
            return _all_finite(pulled.parameters), pulled

        def untried() -> tuple[tf.Tensor, Gradients]:
            return tf.constant(False), Gradients(
                *([tf.zeros_like(x) for x in part] for part in (like, self.parameters))
            )

        usable, pulled = tf.cond(self.kept.is_kept(group), tried, untried)
        return tf.cond(usable, lambda: pulled, recomputed)

    def _from_kept(self, step: Step, adjoint: list, slope: list, residuals: list[list[tf.Tensor]]) -> Gradients:
        """Pulls back through a step whose evaluations were kept.

        `adjoint` is the cotangent of the state at the end of the step or, for the step that passes the end of
        the integration, of the state read off its dense output there; `slope` that of the slope at its end, from
        the step after, where the method hands slopes on.
        """
        start, cotangents, _ = self._cotangents(step, adjoint)
        accepted, first = step.h > 0, int(self.hands_on)
        last = self.method.stages - 1
        for i in range(last, first - 1, -1):
            given = cotangents.of(i)
            if i == last and self.hands_on:
                given = [a + b for a, b in zip(given, _only(accepted, slope), strict=True)]
            pulled = self.kept.split.pull_back(residuals[i - first], given, bool(self.parameters))
            cotangents.pulled(i, pulled)
        handed = _only(accepted, cotangents.of(0), slope) if self.hands_on else []
        state, shares = cotangents.sums(start)
        # Whatever was kept of samples that did not take the step, NaN included, stays away from their cotangents.
        return Gradients(_only(accepted, state, adjoint) + handed, shares)

    def _recomputed(self, step: Step, adjoint: list, slope: list) -> Gradients:
        """Pulls back through a step, recomputed from its start; arguments as in `_from_kept`."""
        method, h = self.method, step.h
        # Of samples that did not take the step, finite slopes: the parameters' sums run over all rows.
        t, t_next, *y = rk.stand_in(h > 0, [step.t, step.t_next, *step.y])
        start, cotangents, at_end = self._cotangents(step, adjoint)
        slope_here = _only(h > 0, slope) if slope else []
        slopes: list[Slope] = []

        def evaluate(i: int) -> Slope:
            state = rk.advance(y, h, method.a[i], [s.value for s in slopes[:i]])
            return self.evaluate(rk.stage_time(method.c[i], t, h, t_next), state)

        def at_the_end() -> Gradients:
            given = cotangents.of(last)
            given = [a + b for a, b in zip(given, slope_here, strict=True)] if slope else given
            return evaluate(last).pull_back(given)

        conditional_last = method.first_same_as_last
        last = method.stages - 1
        for i in range(method.stages - conditional_last):
            slopes.append(evaluate(i))
        if conditional_last:
            # Only a state read off the dense output depends on the slope at the step's end, or the step after.
            for s in slope_here:
                at_end |= tf.reduce_any(tf.not_equal(s, 0))
            zeros = Gradients([tf.zeros_like(a) for a in adjoint], [tf.zeros_like(p) for p in self.parameters])
            cotangents.pulled(last, tf.cond(at_end, at_the_end, lambda: zeros))
        for i in reversed(range(len(slopes))):
            cotangents.pulled(i, slopes[i].pull_back(cotangents.of(i)))
        state, shares = cotangents.sums(start)
        # The slope at the start was evaluated here, so nothing of it is left to the step before.
        return Gradients(state + (_only(h <= 0, slope) if slope else []), shares)

    def _cotangents(self, step: Step, adjoint: list) -> tuple[list[tf.Tensor], _StepCotangents, tf.Tensor]:
        """What the outputs ask of a step: of its start, of its slopes, and whether they ask of the last slope."""
        everywhere = tf.ones_like(step.t, tf.bool)
        weights = step_weights(self.method, everywhere, step.t, step.t_next, self.end)
        start, extra, at_end = adjoint, None, tf.reduce_any(tf.not_equal(weights[-1], 0))
        if self.inner:
            inside, from_inside, extra = self._inner_outputs(step)
            start = [a + b for a, b in zip(start, from_inside, strict=True)]
            at_end |= inside
        return start, _StepCotangents(self.method, step.h, weights, adjoint, extra), at_end

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


def _only(where: tf.Tensor, rows: list[tf.Tensor], others: list[tf.Tensor] | None = None) -> list[tf.Tensor]:
    """`rk.select`, at no cost where all samples are selected, as they mostly are."""
    return tf.cond(tf.reduce_all(where), lambda: rows, lambda: rk.select(where, rows, others))


def _all_finite(values: list[tf.Tensor]) -> tf.Tensor:
    # A sample that rejected a kept step may have left infinities, and zero times infinity is not a number.
    return tf.reduce_all([True, *(tf.reduce_all(tf.math.is_finite(tf.abs(v))) for v in values)])
