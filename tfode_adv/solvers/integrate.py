"""The forward integration: one loop in which every sample has its own time, step size, error test and status."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfode_adv.solvers import dense_output as out
from tfode_adv.solvers import runge_kutta as rk
from tfode_adv.solvers import step_at_rest
from tfode_adv.solvers.finished_samples import UNITS, without_finished
from tfode_adv.solvers.first_step import bounded_first_step, hairer_first_step
from tfode_adv.solvers.graph_mode import in_xla, isolated
from tfode_adv.solvers.loop_state import Attempt, Batch, Outcome, Settings, Totals
from tfode_adv.solvers.status import Status
from tfode_adv.solvers.step_size_control import SMALLEST_RATIO
from tfode_adv.solvers.step_store import StepStore
from tfode_adv.solvers.tableaus import Tableau


class Integral(NamedTuple):
    """A quantity integrated along with the state, by the method's own weights, outside the error control.

    Attributes:
        start: list of tensors, its value at the start.
        integrand: `integrand(t, y, weights)`: the sum over the n rows of their integrands times `weights` `[n]`.
            Rows with weight 0 hold the state of another row.
    """

    start: list[tf.Tensor]
    integrand: Callable[[tf.Tensor, list[tf.Tensor], tf.Tensor], list[tf.Tensor]]


class Solution(NamedTuple):
    """Outputs as rows `[T, B, ...]` a component, totals, the steps where recorded, the integral if any.

    Attributes:
        nfe: evaluations of the field, `[B]`.
        start: the initial rows; of samples that cannot be integrated, another one's.
    """

    outputs: list[tf.Tensor]
    totals: Totals
    nfe: tf.Tensor
    start: list[tf.Tensor]
    steps: StepStore | None
    integral: list[tf.Tensor]


def integrate(
    f: rk.Field,
    t0: tf.Tensor,
    y0: list[tf.Tensor],
    times: tf.Tensor,
    rtol: tf.Tensor,
    atol: tf.Tensor,
    settings: Settings,
    *,
    store: StepStore | None = None,
    integral: Integral | None = None,
    where: tf.Tensor | bool = True,
    one_a_sample: Callable[[], bool | tf.Tensor] = lambda: False,
) -> Solution:
    """Integrates every sample from `t0` and reads its state at `times`.

    Args:
        f: `f(t, y)` with times `[n]` and rows `[n, ...]`, for any n.
        t0: scalar.
        times: `[T]`, not decreasing, none before `t0`.
        rtol: `[B]`.
        atol: `[B]`.
        store: an empty store for what the backward pass needs, to be filled; None where there will be none.
        integral: integrated along, if given.
        where: `[B]`, the samples to integrate; the others' outputs are their initial rows, their status is OK.
        one_a_sample: whether `f` may read something of each sample from a place of its own, so that no sample can
            be left out; asked once `f` was evaluated.
    """
    return _Integration(f, t0, times, settings, store, integral, where, one_a_sample).run(y0, rtol, atol)


class _Integration:
    def __init__(self, f, t0, times, settings, store: StepStore | None, integral: Integral | None, where, one_a_sample):
        self.f, self.t0, self.times, self.settings = f, t0, times, settings
        self.store, self.integral, self.where = store, integral, where
        self.one_a_sample = one_a_sample
        self.method = settings.method
        self.end = times[-1]
        self.xla = in_xla()
        self.num_steps = tf.cast(settings.num_steps, tf.int32)
        self.max_num_steps = tf.cast(settings.max_num_steps, tf.int32)
        if not self.method.adaptive:
            self.max_num_steps = tf.maximum(self.max_num_steps, self.num_steps)
        if store and store.size is not None:
            self.max_num_steps = tf.minimum(self.max_num_steps, store.size)

    def run(self, y0: list[tf.Tensor], rtol: tf.Tensor, atol: tf.Tensor) -> Solution:
        self.full = tf.shape(y0[0])[0]
        self.first_time = tf.reduce_min(tf.where(self.times > self.t0, self.times, self.end))
        unit = tf.maximum(self.full // UNITS, 1)
        batch, totals, store = self._start(y0, rtol, atol)
        outputs = out.initial_outputs(y0, self.times)
        recorded = store.variables if store else ()
        value = self.integral.start if self.integral else []
        work, add_to_integral = isolated(self._work), isolated(self._add_to_integral)

        def body(i, batch, totals, outputs, recorded, value):
            attempt, following, totals, residuals = work(i, batch, totals)
            if store:
                recorded = store.having(recorded).write(i, batch, attempt, residuals, self.one_a_sample()).variables
            if self.integral:
                value = add_to_integral(value, batch, attempt)
            outputs = self._read_outputs(outputs, batch, attempt)
            following = without_finished(following, unit, self.xla or self.one_a_sample())
            return i + 1, following, totals, outputs, recorded, value

        variables = (tf.constant(0), batch, totals, outputs, recorded, value)
        count, _, totals, outputs, recorded, value = tf.while_loop(
            lambda i, batch, *_: tf.reduce_any(batch.active),
            body,
            variables,
            shape_invariants=(
                tf.TensorShape([]),
                tf.nest.map_structure(self._rows_of_any_number, batch),
                *tf.nest.map_structure(lambda x: x.shape, (totals, outputs)),
                tf.nest.map_structure(lambda x: x.shape if tf.is_tensor(x) else None, recorded),
                [x.shape for x in value],
            ),
        )
        outputs = [self._by_time(o, c) for o, c in zip(outputs, y0, strict=True)]
        nfe = self._evaluations_at_start + self.method.evaluations_per_step * (totals.accepted + totals.rejected)
        nfe += step_at_rest.EVALUATIONS * totals.asked
        return Solution(outputs, totals, nfe, batch.y, store and store.having(recorded, count), value)

    def _by_time(self, flat: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        shape = tf.concat([[tf.size(self.times), self.full], tf.shape(like)[1:]], 0)
        return tf.ensure_shape(tf.reshape(flat, shape), [*self.times.shape, *like.shape])

    def _rows_of_any_number(self, x: tf.Tensor) -> tf.TensorShape:
        return x.shape if self.xla else tf.TensorShape([None, *x.shape[1:]])

    def _remembering(self, residuals: list[list[tf.Tensor]]) -> rk.Field:
        """The field; what its evaluations leave to be kept is appended to `residuals`."""
        if not (self.store and self.store.kept):
            return self.f

        def field(t: tf.Tensor, y: list[tf.Tensor]) -> list[tf.Tensor]:
            slope, left = self.store.kept.split(t, y)
            residuals.append(left)
            return slope

        return field

    def _start(self, y0: list[tf.Tensor], rtol: tf.Tensor, atol: tf.Tensor) -> tuple[Batch, Totals, StepStore | None]:
        t = tf.zeros_like(rtol) + self.t0
        # The adjoint equation is solved inside a loop over the solution times.
        slope, step, residuals = isolated(self._first_evaluations)(t, y0, rtol, atol)
        zeros = tf.zeros_like(t, tf.int32)
        status = tf.where(rk.below_resolution(y0, rtol, atol) & self.method.adaptive, int(Status.UNDERFLOW), zeros)
        status = tf.where(tf.equal(rk.not_finite(y0 + slope, t.dtype), 0), status, int(Status.NON_FINITE))
        status = tf.where(self.where, status, int(Status.OK))
        good = tf.equal(status, int(Status.OK)) & self.where
        # No NaN of a sample left out meets a sum over the batch.
        first, *rows = rk.stand_in(good, [step, *y0, *slope])
        y, slope = rows[: len(y0)], rows[len(y0) :]
        batch = Batch(tf.range(self.full), good & (t < self.end), t, first, tf.ones_like(t), rtol, atol, y, slope)
        store = self.store and self.store.write_start(residuals, good)
        return batch, Totals.at_start(status, t, step), store

    @property
    def _evaluations_at_start(self) -> int:
        return int(self.method.first_same_as_last) + int(self._chooses_first_step)

    @property
    def _chooses_first_step(self) -> bool:
        return self.method.adaptive and self.settings.first_step is None

    def _first_evaluations(
        self, t: tf.Tensor, y0: list[tf.Tensor], rtol: tf.Tensor, atol: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor, list[list[tf.Tensor]]]:
        """The slope at the start if it is reused, the first step's size, and what that slope leaves to be kept."""
        slope: list[tf.Tensor] = []
        residuals: list[tf.Tensor] = []
        if self.method.first_same_as_last:
            slope = self._remembering(residuals)(t, y0)
        if self._chooses_first_step:
            step = hairer_first_step(self.f, self.method, t, y0, slope, rtol, atol, self.end)
        elif self.method.adaptive:
            step = tf.zeros_like(t) + rk.exact(self.settings.first_step, t.dtype)
        else:
            return slope, tf.zeros_like(t) + (self.end - self.t0) / tf.cast(self.num_steps, t.dtype), residuals
        return slope, bounded_first_step(self.settings, step, t), residuals

    def _work(self, i: tf.Tensor, batch: Batch, totals: Totals) -> tuple[Attempt, Batch, Totals, list]:
        """Tries one step of every sample in `batch`; the last result is what its evaluations leave to be kept."""
        t_next, h = self._next_time(i, batch)
        residuals: list[tf.Tensor] = []
        first = batch.slope or None
        slopes, y_next = rk.stages(self._remembering(residuals), self.method, batch.t, h, batch.y, first, t_next)
        if not self.method.first_same_as_last:
            y_next = rk.advance(batch.y, h, self.method.b, slopes)
        ratio = self._ratio(h, batch, y_next, slopes)
        accepted = batch.active & (ratio <= 1)
        attempt = Attempt(t_next, h, y_next, slopes, ratio, accepted)
        unfinished = batch.active & ~(accepted & (t_next >= self.end))
        late = tf.where(i + 1 >= self.max_num_steps, int(Status.MAX_NUM_STEPS), int(Status.OK))
        after = self._after(batch, attempt, unfinished, late)
        status = tf.where(unfinished, after.status, int(Status.OK))
        failed = tf.not_equal(status, int(Status.OK))
        following = batch._replace(
            active=unfinished & ~failed, t=after.t, step=after.step, ratio=after.ratio, y=after.y, slope=after.slope
        )
        asked = after.at_rest & unfinished & self.settings.controller.asks_at_rest
        happened = accepted, batch.active & ~accepted, after.at_rest, asked
        totals = totals.update(batch.index, happened, status, after.t, after.step)
        return attempt._replace(failed=failed, step_next=after.step), following, totals, residuals

    def _next_time(self, i: tf.Tensor, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        if self.method.adaptive:
            return adaptive_step(self.settings, batch.t, batch.step, self.end)
        done = tf.cast(i + 1, self.t0.dtype)
        t_next = tf.where(i + 1 >= self.num_steps, self.end, self.t0 + done * batch.step)
        return t_next, batch.step

    def _ratio(self, h: tf.Tensor, batch: Batch, y_next: list[tf.Tensor], slopes: list) -> tf.Tensor:
        """Error over tolerance of each step, `[n]`, 0 where a method has no estimate; NaN where it has no value."""
        if self.method.adaptive:
            return rk.error_ratio(self.method, h, batch.y, y_next, slopes, batch.rtol, batch.atol)
        ratio = rk.not_finite(y_next, h.dtype)
        return ratio + rk.not_finite(slopes[-1], h.dtype) if self.method.hands_on_unjudged else ratio

    def _after(self, batch: Batch, trial: Attempt, unfinished: tf.Tensor, late: tf.Tensor) -> Outcome:
        """How the samples go on; what is rare is computed only where it happens.

        Args:
            late: scalar, the status of a sample that is not finished by now.
        """
        accepted, adaptive = trial.accepted, self.method.adaptive
        step, ratio = batch.step, batch.ratio
        if adaptive:
            factor = self.settings.controller.factor(trial.ratio, ratio, accepted, self.method.control_order)
            step = self.settings.bounded(trial.h * factor)
            ratio = tf.maximum(trial.ratio, SMALLEST_RATIO)
        last = trial.slopes[-1] if self.method.first_same_as_last else []
        nowhere = tf.zeros_like(accepted)

        def usual() -> Outcome:
            t = trial.t_next
            status = tf.where(t + step <= t, int(Status.UNDERFLOW), late) if adaptive else tf.fill(tf.shape(t), late)
            return Outcome(t, step, ratio, trial.y_next, last, status, nowhere)

        def otherwise() -> Outcome:
            t = tf.where(accepted, trial.t_next, batch.t)
            kept = tf.where(accepted, ratio, batch.ratio)
            y, slope = rk.select(accepted, trial.y_next, batch.y), rk.select(accepted, last, batch.slope)
            broken = tf.math.is_nan(trial.ratio)
            if not adaptive:
                return Outcome(t, step, kept, y, slope, tf.where(broken, int(Status.NON_FINITE), late), nowhere)
            at_rest = accepted & tf.equal(trial.ratio, 0)
            rests = at_rest & unfinished & self.settings.controller.asks_at_rest
            following, overflows = tf.cond(
                tf.reduce_any(at_rest | broken),
                lambda: self._unusual(batch, trial, step, rests, broken),
                lambda: (step, nowhere),
            )
            # What a finished sample would try next, which a further solve may start with, is not tried here.
            following = tf.where(batch.active, following, batch.step)
            stuck = (t + following <= t) | overflows
            if self.settings.min_step is not None:
                stuck |= ~accepted & (trial.h <= rk.exact(self.settings.min_step, step.dtype))
            failure = tf.where(broken, int(Status.NON_FINITE), int(Status.UNDERFLOW))
            return Outcome(t, following, kept, y, slope, tf.where(stuck, failure, late), at_rest)

        return tf.cond(tf.reduce_all(accepted & (trial.ratio > 0) if adaptive else accepted), usual, otherwise)

    def _unusual(
        self, batch: Batch, trial: Attempt, step: tf.Tensor, rests: tf.Tensor, broken: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The next step's size after steps without an error or a value, and whether a slope overflowed."""
        # A step that leaves the field's domain is one much too long.
        shortest = self.settings.bounded(trial.h * self.settings.controller.least(trial.h))
        step = tf.where(broken, shortest, step)
        step = tf.where(broken & (trial.t_next > self.end), step_up_to(self.end, batch.t), step)
        # Where an error may exceed the state, no shorter step is known to be better.
        overflows = broken & (batch.rtol >= 1) & _overflow(trial.slopes)
        return self._not_past_rest(rests, step, batch, trial.t_next, trial.y_next, trial.slopes), overflows

    def _not_past_rest(
        self, where: tf.Tensor, step: tf.Tensor, batch: Batch, t: tf.Tensor, y: list[tf.Tensor], slopes: list
    ) -> tf.Tensor:
        """`step`, but for samples at rest, `where` `[n]`, no longer than their neighbours could take it."""

        def limited() -> tf.Tensor:
            longest = step_at_rest.longest_at_rest(self.f, self.method, t, y, slopes[-1], batch.rtol, batch.atol)
            return tf.where(where, tf.minimum(step, longest), step)

        return tf.cond(tf.reduce_any(where), limited, lambda: step)

    def _add_to_integral(self, value: list[tf.Tensor], batch: Batch, attempt: Attempt) -> list[tf.Tensor]:
        """Adds an accepted step's share, up to the end where it passes the end."""
        weights = step_weights(self.method, attempt.accepted, batch.t, attempt.t_next, self.end)
        added = []
        for i, (a, c) in enumerate(zip(self.method.a, self.method.c, strict=True)):
            if not self.method.contributes(i):
                continue
            weight = tf.where(attempt.accepted, attempt.h * weights[i], 0)

            def share(a=a, c=c, i=i, weight=weight) -> list[tf.Tensor]:
                t = rk.stage_time(c, batch.t, attempt.h, attempt.t_next)
                y = rk.advance(batch.y, attempt.h, a, attempt.slopes[:i])
                t, *y = rk.stand_in(tf.not_equal(weight, 0), [t, *y])
                return self.integral.integrand(t, y, weight)

            added.append(
                tf.cond(tf.reduce_any(tf.not_equal(weight, 0)), share, lambda: [tf.zeros_like(v) for v in value])
            )
        return [tf.add_n(parts) for parts in zip(value, *added, strict=True)]

    def _read_outputs(self, outputs: list[tf.Tensor], batch: Batch, attempt: Attempt) -> list[tf.Tensor]:
        """Fills in the solution times that this step passes; a sample that fails keeps its last state from there."""

        def passed() -> list[tf.Tensor]:
            at = out.find_crossings(
                self.times,
                batch.index,
                self.full,
                batch.t,
                attempt.t_next,
                attempt.accepted,
                self.xla,
                self.end,
            )
            if self.settings.lands_on_end and self.times.shape[0] == 1:
                values = [tf.gather(r, at.sample) for r in attempt.y_next]
            else:
                values = out.states_inside(self.method, at, attempt.h, batch.y, attempt.slopes)
            return out.put(outputs, at, values, self.xla)

        def stuck(outputs: list[tf.Tensor]) -> list[tf.Tensor]:
            reached = tf.where(attempt.accepted, attempt.t_next, batch.t)
            forever = tf.fill(tf.shape(reached), self.end)
            at = out.find_crossings(
                self.times, batch.index, self.full, reached, forever, attempt.failed, self.xla, self.end
            )
            last = rk.select(attempt.accepted, attempt.y_next, batch.y)
            return out.put(outputs, at, [tf.gather(r, at.sample) for r in last], self.xla)

        passes = attempt.accepted & (attempt.t_next >= self.first_time)

        def changed() -> list[tf.Tensor]:
            now = tf.cond(tf.reduce_any(passes), passed, lambda: outputs)
            return tf.cond(tf.reduce_any(attempt.failed), lambda: stuck(now), lambda: now)

        return tf.cond(tf.reduce_any(passes | attempt.failed), changed, lambda: outputs)


def _overflow(slopes: list[list[tf.Tensor]]) -> tf.Tensor:
    """Whether a slope of a row is infinite, `[n]`."""
    infinite = [tf.math.is_inf(tf.abs(k)) for stage in slopes for k in stage]
    return tf.reduce_any([tf.reduce_any(i, list(range(1, i.shape.rank))) for i in infinite], 0)


def adaptive_step(settings: Settings, t: tf.Tensor, step: tf.Tensor, end: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """End and size of the step that an adaptive method tries when `step` is proposed."""
    t_next = t + step
    if settings.endpoint == "clip":
        over = t_next >= end
        return tf.where(over, end, t_next), tf.where(over, end - t, step)
    return t_next, step


def step_up_to(end: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
    """The longest step from `t` that does not pass `end`, by rounding neither."""
    step = end - t
    return tf.where(t + step > end, tf.math.nextafter(step, tf.zeros_like(step)), step)


def step_weights(method: Tableau, where: tf.Tensor, t: tf.Tensor, t_next: tf.Tensor, end: tf.Tensor) -> list[tf.Tensor]:
    """The weight of each slope, `[n]`, in the state at the end of a step, or at `end` if the step passes it."""
    last = where & (t_next >= end)
    theta = tf.where(last, tf.math.divide_no_nan(end - t, t_next - t), 1)
    return rk.dense_weights(method, theta, last)
