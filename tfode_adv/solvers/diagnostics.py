"""What a solve returns beside the states: what it cost, how it ended, and where a further solve may start."""

from typing import NamedTuple

import tensorflow as tf

from tfode_adv.solvers.status import Status
from tfode_adv.solvers.tfp_interface import TfpDiagnostics


class _Fields(NamedTuple):
    num_ode_fn_evaluations: tf.Tensor
    num_accepted_steps: tf.Tensor
    num_rejected_steps: tf.Tensor
    status: tf.Tensor
    final_time: tf.Tensor
    num_jacobian_evaluations: tf.Tensor
    num_matrix_factorizations: tf.Tensor
    num_steps_at_rest: tf.Tensor


class Diagnostics(_Fields, TfpDiagnostics):
    """What a solve cost and how it ended: one entry a sample, scalars where the batch is coupled.

    A tuple, as TFP's own, so that a `tf.function` can return it.

    Attributes:
        num_ode_fn_evaluations: evaluations of the dynamics (NFE), those of the first step's choice included.
        num_accepted_steps: steps taken.
        num_rejected_steps: steps tried and rejected.
        status: a `Status`; 0 is success, what is negative a failure.
        final_time: time reached; the solution at later times is the last good state where status is not 0.
        num_jacobian_evaluations: 0: explicit methods need none.
        num_matrix_factorizations: 0.
        num_steps_at_rest: accepted steps whose error estimate was exactly zero. It says nothing there: the size of the
            next step follows from how strongly the field answers beside the state.
    """

    __slots__ = ()

    @property
    def success(self) -> tf.Tensor:
        """Whether each sample succeeded."""
        return tf.equal(self.status, int(Status.OK))

    @property
    def success_status(self) -> tf.Tensor:
        return self.success


class SolverState(NamedTuple):
    """Warm start of a further solve: the next step size of each sample."""

    step_size: tf.Tensor
