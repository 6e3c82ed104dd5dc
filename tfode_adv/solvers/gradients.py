"""The ways to differentiate a solve, each an object: what it keeps of the solve, and how it pulls cotangents back."""

import abc
import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from tfode_adv.errors import UsageError, check_choice, check_integer, check_range
from tfode_adv.solvers.adjoint import solve_adjoint
from tfode_adv.solvers.adjoint_by_tfp import solve_adjoint_together
from tfode_adv.solvers.backprop import backpropagate
from tfode_adv.solvers.backprop_step_sizes import backpropagate_with_step_sizes
from tfode_adv.solvers.graph_mode import in_xla
from tfode_adv.solvers.names import CHECKPOINTS, GRADIENTS, GradientObject
from tfode_adv.solvers.pull_back import Evaluation, Gradients, taped, without
from tfode_adv.solvers.residual_store import AUTO_BYTES, ResidualStore
from tfode_adv.solvers.split_field import SplitField
from tfode_adv.solvers.status import Status, check_status
from tfode_adv.solvers.step_store import Step, StepStore, Trial
from tfode_adv.solvers.tableaus import TABLEAUS, Tableau
from tfode_adv.tensorflow_internals import could_record

NOT_RECORDED = (
    "no GradientTape recorded a solve while jit_compile=True compiled it: put the tape inside the compiled function, "
    "or choose gradient='adjoint'"
)


class Gradient(GradientObject, abc.ABC):
    """A way to differentiate a solve. `problem` is one call of `RungeKuttaSolver.solve`."""

    name: ClassVar[str]

    @abc.abstractmethod
    def recorded(self, method: Tableau) -> type | None:
        """The kind of step that the backward pass reads; None if it reads none."""

    def store(self, problem: Any) -> StepStore | None:
        """Called before the solve: an empty store for its steps, if any are kept."""
        kind = self.recorded(problem.settings.method)
        # What XLA has compiled is differentiated inside of it or not at all, so that the tape is there by now.
        if kind is None or (problem.xla and not could_record()):
            return None
        kept = self.kept(problem) if kind is Step else None
        return StepStore.empty(kind, problem.y0, problem.t0.dtype, kept)

    def kept(self, problem: Any) -> ResidualStore | None:
        """An empty store for the intermediate results of the steps, if any are kept."""
        return None

    @abc.abstractmethod
    def pull_back(
        self, problem: Any, times: tf.Tensor, solution: Any, cotangents: list[tf.Tensor], parameters: list[Any]
    ) -> Gradients:
        """Pulls the cotangents `[T, B, ...]` of the outputs back to the initial rows and to `parameters`."""

    def evaluations(self, method: Tableau, accepted: tf.Tensor, rejected: tf.Tensor) -> tf.Tensor | None:
        """How many evaluations are differentiated, `[B]`; None where that is known only afterwards."""
        return None

    def get_config(self) -> dict[str, Any]:
        """The arguments that it was made with."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Gradient":
        """The inverse of `get_config`."""
        return cls(**config)


@dataclasses.dataclass(frozen=True)
class Backprop(Gradient):
    """Through the accepted steps, with their sizes held constant.

    The derivative of the step sizes is left out: the gradient is that of the fixed grid the solve has chosen.

    Args:
        checkpoint: what is kept for the backward pass: "steps", the start of each accepted step, from which the step is
            recomputed (memory: one state a step); "none", the intermediate results of every evaluation besides, so that
            nothing is recomputed (memory: all of them); "auto", like "none" in compiled functions until `max_bytes` are
            taken, and like "steps" from there. Intermediate results are kept where a `GradientTape` records the solve,
            or the tracing of the function that holds it: a forward pass alone does not pay for them. XLA, and a
            dynamics with loops or branches of TensorFlow's inside, leave nothing that could be kept: there "auto" means
            "steps".
        max_bytes: how much of intermediate results "auto" keeps of one solve, in bytes, at least 0; 2 GiB by default.

    Raises:
        UsageError: for another `checkpoint`, or a number of bytes that is none.
    """

    checkpoint: str = "auto"
    max_bytes: int = AUTO_BYTES
    name: ClassVar[str] = "backprop"

    def __post_init__(self):
        check_choice("checkpoint", self.checkpoint, CHECKPOINTS)
        check_integer("max_bytes", self.max_bytes, low=0)

    def recorded(self, method: Tableau) -> type | None:
        return Step

    def kept(self, problem: Any) -> ResidualStore | None:
        demanded = self.checkpoint == "none"
        if self.checkpoint == "steps" or not could_record():
            return None
        if in_xla():
            if demanded:
                raise UsageError("checkpoint='none' keeps nothing under jit_compile=True: choose 'steps' or 'auto'")
            return None
        # Not compiled, the field would be traced anew in each call.
        if tf.executing_eagerly() and not demanded:
            return None
        split = problem.split()
        if not split.storable:
            if demanded:
                raise UsageError(
                    "checkpoint='none' cannot keep the intermediate results of a dynamics with loops or branches "
                    "inside: choose 'steps' or 'auto'"
                )
            return None
        return ResidualStore.empty(split, problem.settings.method, None if demanded else self.max_bytes)

    def pull_back(
        self, problem: Any, times: tf.Tensor, solution: Any, cotangents: list[tf.Tensor], parameters: list[Any]
    ) -> Gradients:
        if not solution.steps:
            raise UsageError(NOT_RECORDED)
        kept = solution.steps.kept
        evaluate = _evaluation(problem, parameters, kept and kept.split)
        return backpropagate(
            lambda t, y: evaluate(t, y, parameters),
            problem.settings.method,
            problem.t0,
            times,
            solution,
            cotangents,
            parameters,
        )

    def evaluations(self, method: Tableau, accepted: tf.Tensor, rejected: tf.Tensor) -> tf.Tensor | None:
        # The last step's state is read off a dense output that uses the slope at its end.
        return accepted * method.evaluations_per_step + int(method.first_same_as_last)


@dataclasses.dataclass(frozen=True)
class BackpropSteps(Backprop):
    """Through every step tried and its size too: the derivative of what the solver computed.

    As the papers' programs took it; dearer, and it jumps where a step's acceptance changes. Where stability bounds the
    steps it is far from the solution's derivative, since what is left of the state there is the solve's error: for
    y' = -20 y from 0 to 1 by bosh3 at a tolerance of 1e-5, y(1) is -7e-6 and its derivative -0.004, while `Backprop`
    gives -7e-6 and the solution has 2e-9. Of a fixed-step solver it is `Backprop`, whose `checkpoint` matters there
    alone.
    """

    name: ClassVar[str] = "backprop_steps"

    def recorded(self, method: Tableau) -> type | None:
        return Trial if method.adaptive else Step

    def pull_back(
        self, problem: Any, times: tf.Tensor, solution: Any, cotangents: list[tf.Tensor], parameters: list[Any]
    ) -> Gradients:
        if not problem.settings.method.adaptive:
            return super().pull_back(problem, times, solution, cotangents, parameters)
        if not solution.steps:
            raise UsageError(NOT_RECORDED)
        passed = (problem.settings, problem.t0, times, solution, cotangents, parameters, problem.y0)
        field = problem.field if tf.executing_eagerly() or problem.xla else problem.traced
        return backpropagate_with_step_sizes(field, *passed, *problem.tolerances)

    def evaluations(self, method: Tableau, accepted: tf.Tensor, rejected: tf.Tensor) -> tf.Tensor | None:
        if not method.adaptive:
            return super().evaluations(method, accepted, rejected)
        # Two more for the choice of the first step.
        return (accepted + rejected) * method.stages + 2


@dataclasses.dataclass(frozen=True)
class Adjoint(Gradient):
    """The continuous adjoint equation, integrated backwards in time.

    Args:
        tol: its tolerance, relative and absolute, > 0; None means its solver's, if that was given any, or else those of
            the solve.
        solver: what integrates it: the name of a method, which then has all other settings of the solve; a solver, ours
            or one of `tfp.math.ode` (which takes the batch as one system, the parameters' gradients among its state);
            None means the solve's own.

    Raises:
        UsageError: for a tolerance out of range, or the name of a method there is not.
    """

    tol: float | None = None
    solver: Any = None
    name: ClassVar[str] = "adjoint"

    def __post_init__(self):
        if self.tol is not None:
            check_range("tol of the adjoint", self.tol, low=0, low_open=True)
        if isinstance(self.solver, str):
            check_choice("solver of the adjoint", self.solver, TABLEAUS)

    def recorded(self, method: Tableau) -> type | None:
        return None

    def store(self, problem: Any) -> StepStore | None:
        problem.ahead = self._equation(problem)
        return None

    def _equation(self, problem: Any) -> Any:
        """The stock solver of the equation, or the tolerances and settings of ours."""
        solver = self.solver or problem.solver._make_adjoint_solver_fn()
        tolerances, settings = problem.tolerances, problem.settings
        if isinstance(solver, str):
            settings = dataclasses.replace(settings, method=TABLEAUS[solver])
        elif not hasattr(solver, "tableau"):
            return solver
        elif solver is not problem.solver:
            settings = solver._settings.read()
            if not self.solver or {"rtol", "atol"} & solver.get_config().keys():
                tolerances = solver._tolerances(problem.rows)
        if self.tol is not None:
            tolerances = (problem.rows.sample_values(self.tol, problem.rows.dtype),) * 2
        return *tolerances, dataclasses.replace(settings, first_step=None)

    def pull_back(
        self, problem: Any, times: tf.Tensor, solution: Any, cotangents: list[tf.Tensor], parameters: list[Any]
    ) -> Gradients:
        equation = (problem.t0, times, solution, cotangents, parameters)
        if isinstance(problem.ahead, tuple):
            rtol, atol, settings = problem.ahead
            evaluate = _evaluation(problem, parameters)
            gradients, status, reached = solve_adjoint(evaluate, *equation, rtol, atol, settings, problem.one_a_sample)
        else:
            gradients, status, reached = solve_adjoint_together(problem.ahead, problem.field, *equation)
        marked = without(tf.not_equal(status, int(Status.OK)), gradients)
        if problem.solver._on_gradient_failure == "status":
            return gradients._replace(parameters=marked.parameters)
        with tf.control_dependencies(check_status(status, reached, "adjoint ")):
            return tf.nest.map_structure(tf.identity, marked if problem.xla else gradients)


def _evaluation(problem: Any, parameters: list[Any], split: SplitField | None = None) -> Evaluation:
    """How the field is evaluated where nothing was kept, to be pulled back to some or none of `parameters`.

    Args:
        split: the field in two parts, where it was split before.
    """
    if tf.executing_eagerly() or in_xla():
        return lambda t, y, sources: taped(lambda y: problem.field(t, y), y, sources)
    # One trace of the field serves all stages.
    if not split or (parameters and not split.to_parameters):
        split = problem.split(bool(parameters))
    return lambda t, y, sources: split.slope(t, y, bool(sources))


NAMED: dict[str, type[Gradient]] = {name: globals()[kind] for name, kind in GRADIENTS.items()}


def get(gradient: str | Gradient, **options: Any) -> Gradient:
    """A gradient by its name, with those of `options` that it has; or the object itself.

    Raises:
        UsageError: for a name there is not, or an option out of range.
    """
    if isinstance(gradient, Gradient):
        return gradient
    kind = NAMED[check_choice("gradient", gradient, NAMED)]
    return kind(**{field.name: options[field.name] for field in dataclasses.fields(kind) if field.name in options})
