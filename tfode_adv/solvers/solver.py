"""Runge-Kutta solvers behind the interface of `tfp.math.ode.Solver`."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfode_adv.errors import MOST_INTEGER, UsageError, check_choice, check_integer, check_range
from tfode_adv.solvers import gradients
from tfode_adv.solvers.closed_over import Reading, has_gradient
from tfode_adv.solvers.custom_gradient import differentiable
from tfode_adv.solvers.diagnostics import Diagnostics, SolverState
from tfode_adv.solvers.first_step import hairer_first_step
from tfode_adv.solvers.graph_mode import current_graph, in_xla
from tfode_adv.solvers.inside_pfor import eagerly, inside_pfor, one_at_a_time
from tfode_adv.solvers.integrate import Solution, integrate
from tfode_adv.solvers.loop_state import Settings
from tfode_adv.solvers.names import CHECKPOINTS, ENDPOINTS, ON_FAILURE, SolverObject
from tfode_adv.solvers.pull_back import Gradients
from tfode_adv.solvers.refused_gradients import refuse_followed
from tfode_adv.solvers.rows import Rows
from tfode_adv.solvers.runge_kutta import Field, exact
from tfode_adv.solvers.solution_times import checked_times
from tfode_adv.solvers.split_field import SplitField
from tfode_adv.solvers.status import Status, check_status, without_failed
from tfode_adv.solvers.step_size_control import CONTROLLERS
from tfode_adv.solvers.step_store import Step, StepStore
from tfode_adv.solvers.tableaus import Tableau
from tfode_adv.solvers.tfp_interface import ChosenBySolver, Results, Solver
from tfode_adv.tensorflow_internals import could_record, recording_stopped, saving, stop_recording

DEFAULT_MAX_NUM_STEPS = 10_000
IN_PFOR = (
    "a solve inside tf.vectorized_map is not implemented, since its loops cannot be vectorised: each sample of a batch "
    "has its own steps as it is, so solve the whole batch at once, or use tf.map_fn"
)


class RungeKuttaSolver(SolverObject, Solver):
    """An explicit Runge-Kutta method whose every sample has its own step size.

    Subclasses name their `tableau`; all behaviour stands here.
    """

    tableau: Tableau

    def __new__(cls, *args: Any, **kwargs: Any) -> "RungeKuttaSolver":
        solver = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        given = signature.bind(solver, *args, **kwargs)
        solver._options = {**dict(zip(list(signature.parameters)[1:], given.args[1:], strict=False)), **given.kwargs}
        return solver

    def __init__(
        self,
        rtol: Any = 1e-3,
        atol: Any = 1e-6,
        first_step_size: Any = None,
        safety_factor: float = 0.9,
        min_step_size_factor: float = 0.2,
        max_step_size_factor: float = 10.0,
        max_num_steps: Any = None,
        make_adjoint_solver_fn: Callable[[], Solver] | None = None,
        validate_args: bool = False,
        name: str | None = None,
        *,
        num_steps: Any = None,
        controller: str | None = None,
        endpoint: str = "interpolate",
        gradient: str | gradients.Gradient | None = None,
        checkpoint: str = "auto",
        on_failure: str = "raise",
        on_gradient_failure: str = "raise",
        min_step: Any = None,
        max_step: Any = None,
    ):
        """Initializes the solver.

        Args:
            rtol: relative tolerance, a scalar or one number a sample, > 0 for adaptive methods. A step without a value
                (out of the dynamics' domain, or with a slope that overflows) is tried again, shorter; but at a
                tolerance of 1 or more, where an error may exceed the state, a slope that overflows ends the solve,
                as it did the papers' programs.
            atol: absolute tolerance, a scalar or one number a sample, at least 0.
            first_step_size: a scalar or one number a sample; None chooses it (Hairer, Norsett, Wanner, II.4).
            safety_factor: factor on the optimal step size.
            min_step_size_factor: smallest factor from one step size to the next, in (0, 1].
            max_step_size_factor: largest such factor, at least 1.
            max_num_steps: steps tried by a sample before it fails; None means 10,000.
            make_adjoint_solver_fn: makes the solver of the adjoint equation, ours or one of `tfp.math.ode` (which
                takes the batch as one system, the parameters' gradients among its state); None means this solver.
            validate_args: whether to check solution times at run time, where they are not known before.
            name: name of the operations.
            num_steps: number of equal steps, for the methods without an error estimate; default 1.
            controller: "i" (the papers'), "pi" (Gustafsson's) or "doubling" (see `DoublingController`). None: the
                method's own, which is "i" but for `Dopri5CAS`.
            endpoint: "interpolate": the last step may pass the end, and the state is read off the dense output;
                "clip": the last step is shortened.
            gradient: how the solve is differentiated, a name or an object of `tfode_adv.solvers`: "backprop"
                (`Backprop`), "backprop_steps" (`BackpropSteps`) or "adjoint" (`Adjoint`). None means "adjoint" where
                `make_adjoint_solver_fn` is given, "backprop" elsewhere.
            checkpoint: what a gradient given by the name "backprop" keeps: "steps", "none" or "auto" (see `Backprop`).
            on_failure: "raise": a failed sample raises `SolveError` (compiled functions:
                `tf.errors.InvalidArgumentError`; under XLA, which raises nothing, its states are NaN), or "status":
                its last good state is returned, and its status is negative.
            on_gradient_failure: "raise" (under XLA, which raises nothing, the gradients of samples whose adjoint
                solve fails, and those of all variables and constants, are NaN), or "status": such samples have
                gradient zero, variables and constants NaN.
            min_step: size below which no step is proposed, a scalar > 0; a sample whose step of that size is rejected
                fails with `Status.UNDERFLOW`. None: what the type of numbers resolves.
            max_step: size above which no step is proposed, a scalar > 0. Where the error is far below the tolerance
                steps grow past the bound of stability, and the gradient with them: this keeps it right. None: no
                bound, but where the error is exactly zero (`Diagnostics.num_steps_at_rest`) the field itself is asked.

        Raises:
            UsageError: for a value out of range or an unknown choice.
        """
        super().__init__(
            make_adjoint_solver_fn=make_adjoint_solver_fn,
            validate_args=validate_args,
            name=name or self.tableau.name,
        )
        if self.tableau.adaptive:
            if num_steps is not None:
                raise UsageError(f"num_steps is {num_steps!r}, but {self.tableau.name} chooses its own steps")
            for key, value in {"rtol": rtol, "atol": atol, "first_step_size": first_step_size}.items():
                for each in _known(value):
                    check_range(key, each, low=0, low_open=key != "atol")
            for key, value in {"min_step": min_step, "max_step": max_step}.items():
                for each in _known(value):
                    check_range(key, each, low=0, low_open=True)
            if _known(min_step) and _known(max_step) and min_step > max_step:
                raise UsageError(f"min_step is {min_step}, but must not be above max_step, {max_step}")
        elif min_step is not None or max_step is not None:
            raise UsageError(f"{self.tableau.name} takes num_steps equal steps: it has no min_step and no max_step")
        for key, value in {"num_steps": num_steps, "max_num_steps": max_num_steps}.items():
            for each in _known(value):
                check_integer(key, each, low=1, high=MOST_INTEGER)
        controller = check_choice("controller", controller or self.tableau.controller, CONTROLLERS)
        self._rtol, self._atol = rtol, atol
        self._settings = Settings(
            method=self.tableau,
            controller=CONTROLLERS[controller](safety_factor, min_step_size_factor, max_step_size_factor),
            num_steps=1 if num_steps is None else num_steps,
            first_step=first_step_size,
            max_num_steps=DEFAULT_MAX_NUM_STEPS if max_num_steps is None else max_num_steps,
            endpoint=check_choice("endpoint", endpoint, ENDPOINTS),
            min_step=min_step,
            max_step=max_step,
        )
        check_choice("checkpoint", checkpoint, CHECKPOINTS)
        self.gradient = gradients.get(
            gradient or ("adjoint" if make_adjoint_solver_fn else "backprop"), checkpoint=checkpoint
        )
        if make_adjoint_solver_fn and not isinstance(self.gradient, gradients.Adjoint):
            raise UsageError(f"gradient is {gradient!r}, but make_adjoint_solver_fn is for 'adjoint'")
        self._on_failure = check_choice("on_failure", on_failure, ON_FAILURE)
        self._on_gradient_failure = check_choice("on_gradient_failure", on_gradient_failure, ON_FAILURE)

    def solve(
        self,
        ode_fn: Callable,
        initial_time: Any,
        initial_state: Any,
        solution_times: Any,
        jacobian_fn: Any = None,
        jacobian_sparsity: Any = None,
        batch_ndims: int | None = None,
        previous_solver_internal_state: SolverState | None = None,
        constants: dict[str, Any] | None = None,
    ) -> Results:
        """Solves an initial value problem; see `tfp.math.ode.Solver.solve`.

        With `batch_ndims=1` every sample has its own time, step size, error test, NFE and status, and a sample's
        result does not depend on the others. `ode_fn` is then called with times shaped to broadcast against the
        first component of the state, `[n, 1, ..., 1]`, and with any number n of samples; it must treat samples
        independently. The samples of several batch dimensions come in the first of them, the others are 1. With
        `batch_ndims` None or 0 the state is one sample, and the time a scalar.

        Gradients reach `initial_state`, `constants`, the trainable variables that `ode_fn` reads and the floating
        tensors that it closes over; times, tolerances and numbers of steps have none, and one that a `GradientTape`
        follows is refused. A constant or closed-over tensor with one entry a sample, `[B, ...]`, keeps all samples
        together: those that are done are integrated no further, but evaluated along. Under XLA
        "backprop" and "backprop_steps" have room for 128 steps, rejected ones included: where a `GradientTape`
        records, samples that try more fail with `Status.MAX_NUM_STEPS`. That tape must be inside the compiled function.

        Args:
            ode_fn: `ode_fn(t, y, **constants)`, the slope, of the structure and shapes of `y`.
            initial_time: scalar.
            initial_state: tensor or nested structure, `[*batch, ...]` each.
            solution_times: increasing times `[T]`, none before `initial_time`; or
                `tfp.math.ode.ChosenBySolver(final_time)`: both ends of the steps of the sample that takes most of
                them, from `initial_time` to `final_time`.
            jacobian_fn: ignored: explicit methods need none.
            jacobian_sparsity: ignored.
            batch_ndims: number of leading axes that count samples.
            previous_solver_internal_state: an earlier solve's state, whose step sizes are the first ones here.
            constants: named tensors or structures of tensors; those of whole numbers or truth values have no
                gradient.

        Returns:
            `tfp.math.ode.Results`: times `[T]`, states `[T, *batch, ...]`, `Diagnostics`, `SolverState`.

        Raises:
            UsageError: for times out of order, a tolerance or time that a tape follows, a slope of another structure or
                shape than the state, checkpoint="none" where nothing can be kept, or a solve inside
                `tf.vectorized_map`. One that is a `TypeError` too for a state or slope of integers, or a complex slope
                of a real state.
            SolveError: if a sample fails and `on_failure` is "raise".
            NotImplementedError: inside a `tf.autodiff.ForwardAccumulator` that follows the state or the constants.
        """
        del jacobian_fn, jacobian_sparsity
        if inside_pfor():
            raise UsageError(IN_PFOR)
        refuse_followed(initial_time=initial_time, solution_times=solution_times, **self._given())
        with tf.name_scope(self._name):
            rows = Rows(ode_fn, initial_state, batch_ndims)
            # Copies, so that the tensor a user has handed in is another one where the dynamics closes over it.
            constants = tf.nest.map_structure(lambda c: tf.identity(tf.convert_to_tensor(c)), constants or {})
            problem = _Problem(self, rows, constants, initial_time, previous_solver_internal_state)
            if isinstance(solution_times, ChosenBySolver):
                solution_times = problem.chosen_times(solution_times.final_time)
            return problem.solve(checked_times(problem.t0, solution_times, rows.dtype, self._validate_args))

    # What `help` shows of a class is otherwise the signature of its `__new__`.
    __new__.__signature__ = inspect.signature(__init__)  # type: ignore[attr-defined]

    def get_config(self) -> dict[str, Any]:
        """The arguments that it was made with."""
        return dict(self._options)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "RungeKuttaSolver":
        """The inverse of `get_config`."""
        return cls(**config)

    def _given(self) -> dict[str, Any]:
        settings = {"num_steps": self._settings.num_steps, "first_step_size": self._settings.first_step}
        return {"rtol": self._rtol, "atol": self._atol} | settings

    def _tolerances(self, rows: Rows) -> tuple[tf.Tensor, tf.Tensor]:
        atol = rows.sample_values(self._atol, rows.dtype)
        # An entry of zero with no tolerance but a relative one: no error over no scale is no error.
        atol = tf.maximum(atol, np.finfo(rows.dtype.as_numpy_dtype).tiny)
        return rows.sample_values(self._rtol, rows.dtype), atol

    def _solve(self, ode_fn, initial_time, initial_state, solution_times, *unused, batch_ndims=None, **also_unused):
        with stop_recording():
            return self.solve(ode_fn, initial_time, initial_state, solution_times, batch_ndims=batch_ndims)

    def _initialize_solver_internal_state(self, ode_fn, initial_time, initial_state):
        rows = Rows(ode_fn, initial_state, None)
        return _Problem(self, rows, {}, initial_time, None).first_state()


def _known(value: Any) -> list:
    """The numbers that a setting holds, where they are known before the solve: not of tensors."""
    if value is None or tf.is_tensor(value) or isinstance(value, tf.Variable):
        return []
    return np.ravel(np.asarray(value)).tolist()


class _Problem:
    """One call of `solve`."""

    def __init__(self, solver: RungeKuttaSolver, rows: Rows, constants: dict, initial_time: Any, warm_start: Any):
        self.solver, self.rows, self.constants = solver, rows, constants
        self.smooth = [c for c in tf.nest.flatten(constants) if has_gradient(c)]
        self.xla = in_xla()
        self.y0 = [tf.identity(c) for c in rows.initial()]
        with stop_recording():
            # What no tape follows, so that none keeps what the dynamics computes.
            self.t0 = tf.stop_gradient(exact(initial_time, rows.dtype))
            self.start = [tf.stop_gradient(y) for y in self.y0]
            self.still = [tf.stop_gradient(c) for c in self.smooth]
        self.graph = current_graph()
        self.read = Reading()
        self.reads = True
        self.traced: Field | None = None
        # Whatever the backward pass needs is read now: in a loop's derivative it cannot be.
        self.tolerances = solver._tolerances(rows)
        self.settings = solver._settings.read()
        if warm_start is not None:
            self.settings = dataclasses.replace(
                self.settings, first_step=rows.sample_values(warm_start.step_size, rows.dtype)
            )
        elif self.settings.first_step is not None:
            first = rows.sample_values(self.settings.first_step, rows.dtype)
            self.settings = dataclasses.replace(self.settings, first_step=first)

    def field(self, t: tf.Tensor, y: list[tf.Tensor], smooth: list[tf.Tensor] | None = None) -> list[tf.Tensor]:
        """The slopes at (t, y), with `smooth` in place of the constants that have a gradient."""
        if smooth is None:
            smooth = self.still if recording_stopped() else self.smooth
        rest = iter(smooth)
        constants = tf.nest.map_structure(lambda c: next(rest) if has_gradient(c) else c, self.constants)
        if not self.reads:
            return self.rows.field(t, y, constants)
        with self.read.reading(t, y, smooth, self.constants):
            return self.rows.field(t, y, constants)

    def one_a_sample(self) -> bool | tf.Tensor:
        return self.read.one_a_sample(tf.nest.flatten(self.constants), self.y0)

    @property
    def followed(self) -> list[tf.Tensor]:
        """The tensors besides the state that have a gradient: constants, and what the field closes over."""
        known = {id(c) for c in self.smooth}
        return self.smooth + [x for x in self.read.followed if id(x) not in known]

    def solve(self, times: tf.Tensor) -> Results:
        solver = self.solver
        wanted = not tf.executing_eagerly() or could_record()
        if not tf.executing_eagerly():
            with stop_recording():
                self._traced()
        store = solver.gradient.store(self) if wanted else None
        with stop_recording():
            solution = self._integrate(times, store)
            if wanted and not self.read.began:
                # Without a sample to integrate nothing was evaluated, and nothing is known of the variables.
                self.field(*self._example())
        outputs, totals = solution.outputs, solution.totals
        if wanted:
            outputs = self._differentiable(times, solution)
        if solver._on_failure == "raise":
            with tf.control_dependencies(check_status(totals.status, totals.t)):
                outputs = [tf.identity(o) for o in outputs]
            if self.xla:
                outputs = without_failed(outputs, totals.status)
        diagnostics = Diagnostics(
            *map(self.rows.per_sample, (solution.nfe, totals.accepted, totals.rejected, totals.status, totals.t)),
            num_jacobian_evaluations=tf.constant(0),
            num_matrix_factorizations=tf.constant(0),
            num_steps_at_rest=self.rows.per_sample(totals.at_rest),
        )
        state = SolverState(self.rows.per_sample(totals.step))
        return Results(times, self.rows.states(outputs), diagnostics, state)

    def split(self, to_parameters: bool | None = None) -> SplitField:
        """The field in two parts: what is computed once and kept, and what pulls back from it."""
        if not self.read.began:
            self._traced()
        variables = lambda: list(self.read.variables)  # noqa: E731
        return SplitField(self.field, variables, self.smooth, self.followed, *self._example(), to_parameters)

    def _example(self) -> tuple[tf.Tensor, list[tf.Tensor]]:
        return tf.fill(tf.shape(self.y0[0])[:1], self.t0), self.start

    def _traced(self) -> Field:
        """Where a graph is built, the field as one function of it, so that its evaluations are traced once."""
        if self.traced is None:
            self.traced = self.read.trace(lambda t, y: self.field(t, y, self.smooth), *self._example())
        return self.traced

    def _differentiable(self, times: tf.Tensor, solution: Solution) -> list[tf.Tensor]:
        variables, tensors = list(self.read.variables), self.followed
        self.reads = False

        def pulled(cotangents: list[tf.Tensor], with_parameters: bool) -> Gradients:
            parameters = variables + tensors if with_parameters else []
            reached = self._within_reach(times, solution)
            return self.solver.gradient.pull_back(self, times, reached, cotangents, parameters)

        def pull_back(cotangents: list[tf.Tensor], with_parameters: bool) -> Gradients:
            def flat(cotangents: list[tf.Tensor]) -> list[tf.Tensor]:
                return tf.nest.flatten(pulled(cotangents, with_parameters))

            like = Gradients(self.y0, variables + tensors if with_parameters else [])
            if self.graph is None and not tf.executing_eagerly():
                return tf.nest.pack_sequence_as(like, eagerly(flat, cotangents, tf.nest.flatten(like)))
            if inside_pfor():
                return tf.nest.pack_sequence_as(like, one_at_a_time(flat, cotangents))
            return pulled(cotangents, with_parameters)

        return differentiable(solution.outputs, self.y0, variables, tensors, pull_back)

    def _within_reach(self, times: tf.Tensor, solution: Solution) -> Solution:
        """`solution`, solved again where its steps cannot be read.

        That is in a SavedModel, which holds no lists of tensors between functions.
        """
        if not solution.steps or not saving():
            return solution
        with stop_recording():
            kind = self.solver.gradient.recorded(self.settings.method)
            return self._integrate(times, StepStore.empty(kind, self.y0, self.t0.dtype))

    def _integrate(self, times: tf.Tensor, store: StepStore | None) -> Solution:
        field = self.field if tf.executing_eagerly() else self._traced()
        problem = (field, self.t0, self.start, times, *self.tolerances, self.settings)
        return integrate(*problem, store=store, one_a_sample=self.one_a_sample)

    def chosen_times(self, final_time: Any) -> tf.Tensor:
        """Both ends of the accepted steps of the sample that takes most of them, up to `final_time`.

        Samples that fail are left aside: their steps crowd where they broke down.
        """
        end = exact(final_time, self.rows.dtype)
        if in_xla():
            raise UsageError("ChosenBySolver needs a number of times known beforehand under jit_compile=True")
        with stop_recording():
            store = StepStore.empty(Step, self.y0, self.t0.dtype)
            solution = self._integrate(end[tf.newaxis], store)
            accepted = tf.where(tf.equal(solution.totals.status, int(Status.OK)), solution.totals.accepted, -1)
            # The place past the last one stands for nobody: no sample, or none that succeeded.
            sample = tf.argmax(tf.concat([accepted, [0]], 0), output_type=tf.int32)

            def add(i, times):
                step = solution.steps.read(i)
                mine = tf.boolean_mask(step.t_next, tf.equal(step.index, sample) & (step.t_next < end))
                return i + 1, tf.concat([times, mine], 0)

            _, times = tf.while_loop(
                lambda i, _: i < solution.steps.count,
                add,
                (0, tf.zeros([0], end.dtype)),
                shape_invariants=(tf.TensorShape([]), tf.TensorShape([None])),
            )
        return tf.concat([self.t0[tf.newaxis], times, end[tf.newaxis]], 0)

    def first_state(self) -> SolverState:
        rtol, atol = self.tolerances
        t = tf.zeros_like(rtol) + self.t0
        with stop_recording():
            slope = self.field(t, self.y0)
            if self.solver.tableau.adaptive:
                step = hairer_first_step(self.field, self.solver.tableau, t, self.y0, slope, rtol, atol)
            else:
                step = tf.zeros_like(t)
        return SolverState(self.rows.per_sample(step))
