"""The gradient of a recorded solve with that of its step sizes: every step tried is differentiated as it was computed.

The size of a step is a function of the state through the first step's choice and the error ratio of every step before
it, rejected ones included. `backprop` holds the sizes constant; torchdiffeq 0.0.1, with which the papers' programs
were run, differentiates them. At a coarse tolerance the two gradients part.
"""

from typing import Any

import tensorflow as tf

from tfode_adv.solvers import dense_output as out
from tfode_adv.solvers import runge_kutta as rk
from tfode_adv.solvers.backprop import initial_cotangent, sweep
from tfode_adv.solvers.first_step import bounded_first_step, hairer_first_step
from tfode_adv.solvers.graph_mode import in_xla, isolated
from tfode_adv.solvers.integrate import Solution, adaptive_step, step_up_to
from tfode_adv.solvers.loop_state import Settings
from tfode_adv.solvers.pull_back import Gradients, taped
from tfode_adv.solvers.status import Status
from tfode_adv.solvers.step_size_control import SMALLEST_RATIO
from tfode_adv.solvers.step_store import Trial

# Far below the ratio at which the largest factor is reached; the factor's own derivative is infinite at 0.
_TINY_RATIO = 1e-20


def backpropagate_with_step_sizes(
    field: rk.Field,
    settings: Settings,
    t0: tf.Tensor,
    times: tf.Tensor,
    solution: Solution,
    cotangents: list[tf.Tensor],
    parameters: list[Any],
    y0: list[tf.Tensor],
    rtol: tf.Tensor,
    atol: tf.Tensor,
) -> Gradients:
    """Pulls the cotangents of a solve's outputs back to its initial rows and to `parameters`.

    The derivative of what the solver computed, between the points where a step's acceptance, a clipped factor or the
    number of steps changes. A step rejected with an error that is not finite passes on the factor alone.

    Args:
        field: `field(t, y)`, reading `parameters`.
        solution: with a `Trial` for each step tried.
        cotangents: rows `[T, B, ...]` a component.
        parameters: variables and tensors; empty where only the state's gradient is wanted.
        y0: rows `[B, ...]`.
        rtol, atol: `[B]`.
    """
    problem = _ThroughStepSizes(field, settings, t0, times, cotangents, parameters, rtol, atol)
    return problem.run(solution, y0)


class _ThroughStepSizes:
    def __init__(self, field, settings, t0, times, cotangents, parameters, rtol, atol):
        self.field, self.settings, self.t0, self.times, self.parameters = field, settings, t0, times, parameters
        self.rtol, self.atol, self.cotangents = rtol, atol, cotangents
        self.end = times[-1]
        self.full = tf.size(rtol)
        self.xla = in_xla()

    def run(self, solution: Solution, y0: list[tf.Tensor]) -> Gradients:
        self.succeeded = succeeded = tf.equal(solution.totals.status, int(Status.OK))
        zeros = tf.zeros_like(self.rtol)
        flat = [tf.reshape(c, tf.concat([[-1], tf.shape(c)[2:]], 0)) for c in self.cotangents]
        self.flat = rk.select(tf.tile(succeeded, [tf.size(self.times)]), flat)
        carried = [zeros, zeros, zeros, *[tf.zeros_like(c) for c in y0]]
        (_, step, _, *adjoint), totals = sweep(solution.steps, carried, self.parameters, self._pull_back)
        adjoint = [a + initial_cotangent(c, self.times, self.t0) for a, c in zip(adjoint, self.cotangents, strict=True)]
        if self.settings.first_step is None:
            finite, (step,) = rk.stand_in(succeeded, y0), rk.select(succeeded, [step])
            rows, shares = isolated(self._pull_back_first_step)(finite, step)
            adjoint = [a + r for a, r in zip(adjoint, rows, strict=True)]
            totals = [a + b for a, b in zip(totals, _if_any(succeeded, shares), strict=True)]
        return Gradients(rk.select(succeeded, adjoint), totals)

    def _pull_back_first_step(self, y0: list[tf.Tensor], cotangent: tf.Tensor) -> Gradients:
        t = tf.zeros_like(self.rtol) + self.t0

        def first_step(y: list[tf.Tensor]) -> list[tf.Tensor]:
            slope = self.field(t, y)
            tolerances = self.rtol, self.atol
            step = hairer_first_step(self.field, self.settings.method, t, y, slope, *tolerances, self.end)
            return [bounded_first_step(self.settings, step, t)]

        return taped(first_step, y0, self.parameters).pull_back([cotangent])

    def _pull_back(
        self, i: tf.Tensor, trial: Trial, carried: list[tf.Tensor]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Cotangents of (t, step, ratio, y) before a trial, from those after it, and its shares of the parameters'."""
        del i
        trial = self._standing_in(trial)
        t_next, _ = self._tried(trial, trial.t, trial.step)
        at = self._crossings(trial, trial.t, t_next)
        read = rk.select(at.valid, [tf.gather(c, at.row) for c in self.flat])

        def after(rows: list[tf.Tensor]) -> list[tf.Tensor]:
            t, step, ratio, *y = rows
            return self._after(trial, t, step, ratio, y)

        outgoing = rk.select(trial.counts, carried) + read
        # Copies: what `after` reads of the trial itself is constant.
        before = [tf.identity(x) for x in (trial.t, trial.step, trial.ratio, *trial.y)]
        rows, shares = taped(after, before, self.parameters).pull_back(outgoing)
        return rk.select(trial.counts, rows, carried), _if_any(trial.counts, shares)

    def _standing_in(self, trial: Trial) -> Trial:
        """The trial with rows of its own in place of those that do not count, failed samples' among them.

        Nothing depends on what is computed of these, but it must be finite not to spoil the parameters' sums.
        """
        counts = trial.counts & tf.gather(self.succeeded, trial.index)
        rows = rk.stand_in(counts, tf.nest.flatten(trial))
        return tf.nest.pack_sequence_as(trial, rows)._replace(counts=counts)

    def _after(self, trial: Trial, t, step, ratio, y) -> list[tf.Tensor]:
        """(t, step, ratio, y) after the trial, and the states read off it: the forward computation again."""
        method, controller, accepted = self.settings.method, self.settings.controller, trial.accepted
        t_next, h = self._tried(trial, t, step)
        to_end = (
            ~accepted & tf.equal(trial.step_next, step_up_to(self.end, trial.t)) & (trial.t + trial.step > self.end)
        )
        shortest = self.settings.bounded(h * controller.least(h))
        hopeless = ~accepted & (trial.step_next <= shortest * 1.001) | to_end
        # What such a step computes leaves no trace but the clipped factor; no step at all is computed in its place.
        tried = tf.where(hopeless, tf.zeros_like(h), h)
        slopes, y_next = rk.stages(self.field, method, t, tried, y, None, tf.where(hopeless, t, t_next))
        if not method.first_same_as_last:
            y_next = rk.advance(y, tried, method.b, slopes)
        rtol, atol = (tf.gather(tolerance, trial.index) for tolerance in (self.rtol, self.atol))
        error = rk.error_ratio(method, tried, y, y_next, slopes, rtol, atol, rk.root_mean_square)
        factor = controller.factor(tf.maximum(error, _TINY_RATIO), ratio, accepted, method.control_order)
        step_next = h * tf.where(hopeless, controller.least(h), factor)
        step_next = tf.where(to_end, self.end - t, self.settings.bounded(step_next))
        # Of a sample at rest the next step's size moves nothing.
        step_next = tf.where(accepted & tf.equal(error, 0), trial.step_next, step_next)

        at = self._crossings(trial, t, t_next)
        if self.settings.lands_on_end and self.times.shape[0] == 1:
            read = [tf.gather(rows, at.sample) for rows in y_next]
        else:
            read = out.states_inside(method, at, h, y, slopes)
        y = rk.select(accepted, y_next, y)
        t = tf.where(accepted, t_next, t)
        return [t, step_next, tf.where(accepted, tf.maximum(error, SMALLEST_RATIO), ratio), *y, *read]

    def _tried(self, trial: Trial, t: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """End and size of the step tried; one cut to end where the integration does has that end whatever `t` is."""
        t_next, h = adaptive_step(self.settings, t, step, self.end)
        cut = tf.equal(trial.step, step_up_to(self.end, trial.t))
        return tf.where(cut, tf.minimum(self.end, trial.t + trial.step), t_next), tf.where(cut, self.end - t, h)

    def _crossings(self, trial: Trial, t: tf.Tensor, t_next: tf.Tensor) -> out.Crossings:
        where = trial.accepted & trial.counts
        return out.find_crossings(self.times, trial.index, self.full, t, t_next, where, self.xla, self.end)


def _if_any(counts: tf.Tensor, shares: list[tf.Tensor]) -> list[tf.Tensor]:
    """The parameters' shares; zero where no row counts, since there was none to stand in for the others."""
    return [tf.where(tf.reduce_any(counts), share, tf.zeros_like(share)) for share in shares]
