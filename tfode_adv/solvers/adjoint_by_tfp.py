"""The continuous adjoint equation by a solver of `tfp.math.ode`: the whole batch and the parameters as one system.

See `tfode_adv.solvers.adjoint` for the equation. Here the parameters' integral is part of the state, as in TFP.
"""

from typing import Any

import tensorflow as tf

from tfode_adv.solvers import runge_kutta as rk
from tfode_adv.solvers.integrate import Solution
from tfode_adv.solvers.pull_back import Gradients, taped
from tfode_adv.solvers.status import Status
from tfode_adv.solvers.tfp_interface import Solver
from tfode_adv.tensorflow_internals import recording


def solve_adjoint_together(
    solver: Solver,
    field: rk.Field,
    t0: tf.Tensor,
    times: tf.Tensor,
    solution: Solution,
    cotangents: list[tf.Tensor],
    parameters: list[Any],
) -> tuple[Gradients, tf.Tensor, tf.Tensor]:
    """Arguments and results as those of `tfode_adv.solvers.adjoint.solve_adjoint`."""
    succeeded = tf.equal(solution.totals.status, int(Status.OK))
    full = tf.shape(cotangents[0])[1]

    def augmented(s: tf.Tensor, state: tuple) -> tuple:
        y, a, _ = state
        slope = taped(lambda y: field(tf.fill([full], -s), y), list(y), parameters)
        pulled = slope.pull_back([tf.stop_gradient(c) for c in a])
        return tuple(-k for k in slope.value), tuple(pulled.state), tuple(pulled.parameters)

    def interval(m, adjoint, totals, status, reached):
        start = tf.cond(m > 0, lambda: times[tf.maximum(m - 1, 0)], lambda: t0)
        y = rk.stand_in(succeeded, [o[m] for o in solution.outputs])
        added = rk.select(succeeded, [c[m] for c in cotangents])
        a = [b + c for b, c in zip(adjoint, added, strict=True)]
        state = tuple(y), tuple(a), tuple(totals)

        def solved() -> tuple:
            with recording():  # an implicit method derives by a tape
                back = solver.solve(augmented, -times[m], state, [-start])
            _, a, totals = tf.nest.map_structure(lambda x: x[0], back.states)
            return list(a), list(totals), tf.cast(back.diagnostics.status, tf.int32)

        adjoint, totals, ended = tf.cond(times[m] <= start, lambda: (a, totals, tf.constant(0)), solved)
        status = tf.where(tf.equal(status, 0), ended, status)
        return m - 1, adjoint, totals, status, tf.where(tf.equal(status, 0), start, reached)

    variables = (
        tf.size(times) - 1,
        [tf.zeros_like(c[0]) for c in cotangents],
        [tf.zeros_like(p) for p in parameters],
        tf.constant(0),
        times[-1],
    )
    _, adjoint, totals, status, reached = tf.while_loop(
        lambda m, adjoint, totals, status, reached: (m >= 0) & tf.equal(status, 0),
        interval,
        variables,
        shape_invariants=tf.nest.map_structure(lambda x: x.shape, variables),
    )
    status = tf.where(tf.less(status, 0), int(Status.MAX_NUM_STEPS), int(Status.OK))
    return Gradients(adjoint, totals), tf.fill([full], status), tf.fill([full], reached)
