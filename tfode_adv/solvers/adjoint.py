"""The gradient of a solve by the continuous adjoint equation, integrated backwards in time.

Chen, Ricky T. Q., et al. "Neural Ordinary Differential Equations", NeurIPS 2018, appendix B: with a = dL/dy,
da/dt = -a df/dy and dL/dp = integral of a df/dp. The state is integrated back along with it, so that memory does not
grow with the number of steps. The parameters' integral is summed by the method's own weights and takes no part in the
error control: it feeds back into nothing.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfode_adv.solvers import runge_kutta as rk
from tfode_adv.solvers.integrate import Integral, Solution, integrate
from tfode_adv.solvers.loop_state import Settings
from tfode_adv.solvers.pull_back import Evaluation, Gradients
from tfode_adv.solvers.status import Status


def solve_adjoint(
    evaluate: Evaluation,
    t0: tf.Tensor,
    times: tf.Tensor,
    solution: Solution,
    cotangents: list[tf.Tensor],
    parameters: list[Any],
    rtol: tf.Tensor,
    atol: tf.Tensor,
    settings: Settings,
    one_a_sample: Callable[[], bool | tf.Tensor],
) -> tuple[Gradients, tf.Tensor, tf.Tensor]:
    """Pulls the cotangents of a solve's outputs back to its initial rows and to `parameters`.

    Args:
        evaluate: how the field is evaluated, to be pulled back to none or all of `parameters`.
        cotangents: rows `[T, B, ...]` a component.
        rtol, atol: `[B]`, of the adjoint solve.

    Returns:
        The gradients, and per sample `[B]` the status of the adjoint solve and the time it reached.
    """
    components = len(cotangents)
    succeeded = tf.equal(solution.totals.status, int(Status.OK))

    def augmented(s: tf.Tensor, rows: list[tf.Tensor]) -> list[tf.Tensor]:
        y, a = rows[:components], rows[components:]
        slope = evaluate(-s, y, [])
        return [-k for k in slope.value] + slope.pull_back(a).state

    def parameter_integrand(s: tf.Tensor, rows: list[tf.Tensor], weights: tf.Tensor) -> list[tf.Tensor]:
        y, a = rows[:components], rows[components:]
        slope = evaluate(-s, y, parameters)
        return slope.pull_back([rk.per_row(weights, c) * c for c in a]).parameters

    def interval(m, adjoint, totals, status, reached):
        start = tf.cond(m > 0, lambda: times[tf.maximum(m - 1, 0)], lambda: t0)
        y = rk.stand_in(succeeded, [o[m] for o in solution.outputs])
        added = rk.select(succeeded, [c[m] for c in cotangents])
        a = [b + c for b, c in zip(adjoint, added, strict=True)]
        back = integrate(
            augmented,
            -times[m],
            y + a,
            -start[tf.newaxis],
            rtol,
            atol,
            settings,
            one_a_sample=one_a_sample,
            integral=Integral(totals, parameter_integrand) if parameters else None,
            where=succeeded & tf.equal(status, int(Status.OK)),
        )
        status = tf.where(tf.equal(status, int(Status.OK)), back.totals.status, status)
        adjoint = rk.select(tf.equal(status, int(Status.OK)), [o[0] for o in back.outputs[components:]])
        reached = tf.where(tf.equal(status, int(Status.OK)), -back.totals.t, reached)
        return m - 1, adjoint, back.integral if parameters else totals, status, reached

    adjoint = [tf.zeros_like(c[0]) for c in cotangents]
    totals = [tf.zeros_like(p) for p in parameters]
    variables = (
        tf.size(times) - 1,
        adjoint,
        totals,
        tf.zeros_like(rtol, tf.int32),
        tf.zeros_like(rtol) + times[-1],
    )
    if times.shape[0] == 1:
        variables = interval(*variables)
    else:
        variables = tf.while_loop(
            lambda m, *_: m >= 0,
            interval,
            variables,
            shape_invariants=tf.nest.map_structure(lambda x: x.shape, variables),
        )
    _, adjoint, totals, status, reached = variables
    return Gradients(adjoint, totals), status, reached
