"""A block's solve by stock `tfp.math.ode.DormandPrince`."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfode_adv import solvers
from tfode_adv.errors import UsageError
from tfode_adv.solvers.refused_gradients import refuse_followed
from tfode_adv.solvers.runge_kutta import exact


def solve_stock(
    field: Callable, h0: Any, times: Any, tol: Any, max_num_steps: int, constants: dict[str, Any]
) -> solvers.Results:
    """Integrates `field` from time 0, the batch as one system; as with the other solvers, in float32 at least.

    `constants` are what the field is called with by name, which have a gradient too.

    Raises:
        UsageError: for a tolerance a sample, or times that a tape follows.
    """
    tol = exact(tol, tf.float64)
    if tol.shape.rank != 0:
        raise UsageError("solver 'tfp' shares one step size in a batch: it takes no tolerance a sample")
    refuse_followed(solution_times=times)
    solver = solvers.get("tfp", rtol=tol, atol=tol, max_num_steps=max_num_steps)
    narrow = [x.dtype for x in tf.nest.flatten(h0)]
    # Half precision is the dynamics' alone.
    wide = [tf.float32 if dtype.size < tf.float32.size else dtype for dtype in narrow]

    def cast(state: Any, dtypes: list[tf.DType]) -> Any:
        flat = [tf.cast(x, dtype) for x, dtype in zip(tf.nest.flatten(state), dtypes, strict=True)]
        return tf.nest.pack_sequence_as(h0, flat)

    def widened(t: tf.Tensor, h: Any, **given: Any) -> Any:
        return cast(field(tf.cast(t, narrow[0].real_dtype), cast(h, narrow), **given), wide)

    results = solver.solve(widened, 0.0, cast(h0, wide), times, constants=constants or None)
    return results._replace(states=cast(results.states, narrow))
