"""What a solve returns beside the states: what it cost, how it ended, and where a further solve may start."""

import dataclasses
from typing import NamedTuple

import tensorflow as tf
from tensorflow_probability.python.math.ode.base import Diagnostics as TfpDiagnostics

from tfode_adv.solvers.status import Status


@dataclasses.dataclass(frozen=True)
class Diagnostics(TfpDiagnostics):
    """What a solve cost and how it ended: one entry a sample, scalars where the batch is coupled.

    Attributes:
        num_ode_fn_evaluations: evaluations of the dynamics (NFE), those of the first step's choice included.
        num_accepted_steps: steps taken.
        num_rejected_steps: steps tried and rejected.
        status: a `Status`; 0 is success.
        final_time: time reached; the solution at later times is the last good state where status is not 0.
    """

    num_ode_fn_evaluations: tf.Tensor = None
    num_accepted_steps: tf.Tensor = None
    num_rejected_steps: tf.Tensor = None
    status: tf.Tensor = None
    final_time: tf.Tensor = None
    num_jacobian_evaluations: tf.Tensor = 0
    num_matrix_factorizations: tf.Tensor = 0

    @property
    def success_status(self):
        return tf.equal(self.status, int(Status.OK))


class SolverState(NamedTuple):
    """Warm start of a further solve: the next step size of each sample."""

    step_size: tf.Tensor
