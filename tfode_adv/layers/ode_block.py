"""A Keras layer that integrates a dynamics."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfode_adv import solvers
from tfode_adv.errors import UsageError, check_choice, check_range
from tfode_adv.layers.context import SETTINGS, Statistics, current_settings, record
from tfode_adv.solvers.solver import CHECKPOINTS, GRADIENTS, ON_FAILURE
from tfode_adv.solvers.status import check_status


@keras.saving.register_keras_serializable(package="tfode_adv")
class ODEBlock(keras.layers.Layer):
    """Integrates dh/dt = dynamics(t, h) from t = 0 to `final_time`: an ODE-Net's block.

    Chen et al., "Neural Ordinary Differential Equations", NeurIPS 2018; WIFS 2019, section 3.

    Called on a state `[B, ...]`, or a nested structure of them, it returns the state at `final_time`. Every sample
    has its own step sizes, so a prediction does not depend on what else is in the batch. With mixed precision only
    the dynamics computes in half precision.

    Args:
        dynamics: a Keras layer, or callable, `f(t, h)` that returns dh/dt of h's structure and shapes. `t` is a
            scalar, or one time a sample shaped to broadcast against the state's first component. It is called with
            any number of samples and must treat them independently.
        solver: "dopri5", "bosh3", "heun2" (adaptive), "euler", "midpoint", "rk4", "kutta38" (`num_steps` equal
            steps), or "tfp", the stock `tfp.math.ode.DormandPrince`: the batch shares one step size, and the
            gradient is its own adjoint.
        tol: tolerance of adaptive solvers, relative and absolute, > 0.
        gradient: "backprop", through the accepted steps with step sizes held constant; "backprop_steps", through the
            step sizes too, as the papers' programs did; or "adjoint", the continuous adjoint equation.
        final_time: > 0.
        num_steps: steps of a fixed-step solver; default 1.
        checkpoint: what "backprop" keeps for its backward pass: "auto", "steps" or "none" (see
            `tfode_adv.solvers.RungeKuttaSolver`).
        adjoint_tol: tolerance of the adjoint solve; None means `tol`.
        adjoint_solver: solver of the adjoint equation; None means `solver`.
        max_num_steps: steps tried before a sample fails.
        on_failure: "raise": a failed sample raises `tfode_adv.solvers.SolveError` (compiled functions:
            `tf.errors.InvalidArgumentError`; under XLA nothing is raised); "status": its last good state is returned,
            and its status stands in the statistics.

    Raises:
        UsageError: for a value out of range or an unknown choice.
    """

    def __init__(
        self,
        dynamics: Callable,
        solver: str = "dopri5",
        tol: float = 1e-3,
        gradient: str = "backprop",
        final_time: float = 1.0,
        num_steps: int | None = None,
        checkpoint: str = "auto",
        adjoint_tol: float | None = None,
        adjoint_solver: str | None = None,
        max_num_steps: int = 1000,
        on_failure: str = "raise",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not callable(dynamics):
            raise UsageError(f"dynamics is {dynamics!r}, but must be a layer or function f(t, h)")
        self.dynamics = dynamics
        self.solver, self.gradient, self.checkpoint = solver, gradient, checkpoint
        self.final_time = check_range("final_time", final_time, low=0, low_open=True)
        self.adjoint_tol, self.adjoint_solver = adjoint_tol, adjoint_solver
        self.max_num_steps = check_range("max_num_steps", max_num_steps, low=1)
        self.on_failure = check_choice("on_failure", on_failure, ON_FAILURE)
        # Plain TensorFlow variables: settings that compiled functions read anew at each call, not weights.
        with tf.init_scope():
            self._tol = tf.Variable(_checked_tol("tol", tol), trainable=False, dtype=tf.float64, name="tol")
            self._num_steps = tf.Variable(_checked_steps(num_steps), trainable=False, dtype=tf.int32, name="num_steps")

    @property
    def tol(self) -> float:
        """Tolerance, relative and absolute. Setting it takes effect in compiled functions, without retracing."""
        return float(self._tol.numpy())

    @tol.setter
    def tol(self, value: float) -> None:
        self._tol.assign(_checked_tol("tol", value))

    @property
    def num_steps(self) -> int:
        """Steps of a fixed-step solver. Setting it takes effect in compiled functions, without retracing."""
        return int(self._num_steps.numpy())

    @num_steps.setter
    def num_steps(self, value: int | None) -> None:
        self._num_steps.assign(_checked_steps(value))

    @property
    def solver(self) -> str:
        """Name of the solver. Functions compiled before it is set keep the old one."""
        return self._solver

    @solver.setter
    def solver(self, value: str) -> None:
        self._solver = check_choice("solver", value, solvers.available())

    @property
    def gradient(self) -> str:
        """How the block is differentiated. Functions compiled before it is set keep the old way."""
        return self._gradient

    @gradient.setter
    def gradient(self, value: str) -> None:
        self._gradient = check_choice("gradient", value, GRADIENTS)

    @property
    def checkpoint(self) -> str:
        return self._checkpoint

    @checkpoint.setter
    def checkpoint(self, value: str) -> None:
        self._checkpoint = check_choice("checkpoint", value, CHECKPOINTS)

    @property
    def adjoint_tol(self) -> float | None:
        return self._adjoint_tol

    @adjoint_tol.setter
    def adjoint_tol(self, value: float | None) -> None:
        self._adjoint_tol = None if value is None else _checked_tol("adjoint_tol", value)

    @property
    def adjoint_solver(self) -> str | None:
        return self._adjoint_solver

    @adjoint_solver.setter
    def adjoint_solver(self, value: str | None) -> None:
        if value is not None:
            check_choice("adjoint_solver", value, [n for n in solvers.available() if n != "tfp"])
        self._adjoint_solver = value

    def build(self, input_shape: Any) -> None:
        """Builds the dynamics, by calling it on symbols of the state's shapes."""
        if isinstance(self.dynamics, keras.layers.Layer) and not self.dynamics.built:
            shapes = [input_shape] if _is_shape(input_shape) else list(input_shape)
            dtype = self.compute_dtype
            state = [keras.KerasTensor((None, *s[1:]), dtype=dtype) for s in shapes]
            time = keras.KerasTensor((None, *[1] * (len(shapes[0]) - 1)), dtype=dtype)
            self.dynamics(time, state[0] if _is_shape(input_shape) else tuple(state))
        self.built = True

    def compute_output_spec(self, h0: Any) -> Any:
        return tf.nest.map_structure(lambda x: keras.KerasTensor(x.shape, dtype=self.compute_dtype), h0)

    def call(self, h0: Any) -> Any:
        results = self._solve(self._field, h0, [self.final_time], note=True)
        return tf.nest.map_structure(lambda x: x[0], results.states)

    def trajectory(self, h0: Any, times: Any) -> Any:
        """The states at increasing `times` in [0, inf), `[T, B, ...]`, by the solver's dense output."""
        self._ensure_built(h0)
        return self._solve(self._field, h0, times).states

    def inverse(self, h1: Any) -> Any:
        """The state at t = 0 whose integration ends in `h1`: the dynamics integrated backwards in time."""
        self._ensure_built(h1)

        def reversed_field(s: tf.Tensor, h: Any) -> Any:
            slope = self._field(tf.cast(self.final_time, s.dtype) - s, h)
            return tf.nest.map_structure(tf.negative, slope)

        results = self._solve(reversed_field, h1, [self.final_time])
        return tf.nest.map_structure(lambda x: x[0], results.states)

    def _ensure_built(self, state: Any) -> None:
        if not self.built:
            shapes = [tuple(x.shape) for x in tf.nest.flatten(state)]
            self.build(shapes if tf.nest.is_nested(state) else shapes[0])

    def _field(self, t: tf.Tensor, h: Any) -> Any:
        return self.dynamics(t, h)

    def _solve(self, field: Callable, h0: Any, times: Any, note: bool = False) -> tfp.math.ode.Results:
        settings = self._effective_settings()
        h0 = tf.nest.map_structure(tf.convert_to_tensor, h0)
        stock = settings["solver"] == "tfp"
        solver = self._stock(settings) if stock else self._make_solver(settings)
        results = solver.solve(field, 0.0, h0, times, batch_ndims=None if stock else 1)
        statistics = self._statistics(results.diagnostics, h0, settings)
        if note:
            record(self, statistics)
        if settings["on_failure"] == "raise":
            with tf.control_dependencies(check_status(statistics.status, statistics.time)):
                results = results._replace(states=tf.nest.map_structure(tf.identity, results.states))
        return results

    def _effective_settings(self) -> dict[str, Any]:
        own = {
            "tol": self._tol,
            "num_steps": self._num_steps,
            "solver": self.solver,
            "gradient": self.gradient,
            "checkpoint": self.checkpoint,
            "max_num_steps": self.max_num_steps,
            "on_failure": self.on_failure,
            "adjoint_tol": self.adjoint_tol,
            "adjoint_solver": self.adjoint_solver,
        }
        settings = own | current_settings()
        check_choice("solver", settings["solver"], solvers.available())
        if isinstance(settings["tol"], (int, float)):
            _checked_tol("tol", settings["tol"])
        return settings

    def _make_solver(self, settings: dict[str, Any]) -> solvers.RungeKuttaSolver:
        def make(name: str, tol: Any, **options: Any) -> solvers.RungeKuttaSolver:
            steps = {"rtol": tol, "atol": tol} if solvers.is_adaptive(name) else {"num_steps": settings["num_steps"]}
            return solvers.get(name, max_num_steps=settings["max_num_steps"], **steps, **options)

        adjoint = None
        if settings["adjoint_solver"] or settings["adjoint_tol"]:
            name = settings["adjoint_solver"] or settings["solver"]
            adjoint = make(name, settings["adjoint_tol"] or settings["tol"])
        return make(
            settings["solver"],
            tf.convert_to_tensor(settings["tol"]),
            gradient=settings["gradient"],
            checkpoint=settings["checkpoint"],
            on_gradient_failure=settings["on_failure"],
            make_adjoint_solver_fn=(lambda: adjoint) if adjoint else None,
        )

    def _stock(self, settings: dict[str, Any]) -> tfp.math.ode.DormandPrince:
        tol = tf.cast(tf.convert_to_tensor(settings["tol"]), tf.float32)
        if tol.shape.rank != 0:
            raise UsageError("solver 'tfp' shares one step size in a batch: it takes no tolerance a sample")
        return solvers.get("tfp", rtol=tol, atol=tol, max_num_steps=settings["max_num_steps"])

    def _statistics(self, diagnostics: Any, h0: Any, settings: dict[str, Any]) -> Statistics:
        batch = tf.shape(tf.nest.flatten(h0)[0])[:1]
        if settings["solver"] == "tfp":
            nfe = tf.broadcast_to(tf.cast(diagnostics.num_ode_fn_evaluations, tf.int32), batch)
            status = tf.broadcast_to(tf.cast(diagnostics.status, tf.int32), batch)
            # Stock TFP counts evaluations only: six a step, accepted or not.
            zeros = tf.zeros_like(nfe)
            return Statistics(nfe, nfe // 6, zeros, status, tf.cast(zeros, tf.float32), None)
        tableau = solvers.methods.METHODS[settings["solver"]].tableau
        backward = None
        if settings["gradient"] == "backprop_steps" and tableau.adaptive:
            tried = diagnostics.num_accepted_steps + diagnostics.num_rejected_steps
            # Two more for the choice of the first step.
            backward = tried * tableau.stages + 2
        elif settings["gradient"] != "adjoint":
            backward = diagnostics.num_accepted_steps * tableau.evaluations_per_step
            # The last step's state is read off a dense output that uses the slope at its end.
            backward += int(tableau.first_same_as_last)
        return Statistics(
            diagnostics.num_ode_fn_evaluations,
            diagnostics.num_accepted_steps,
            diagnostics.num_rejected_steps,
            diagnostics.status,
            diagnostics.final_time,
            backward,
        )

    def get_config(self) -> dict[str, Any]:
        config = {name: getattr(self, name) for name in ("final_time", *SETTINGS)}
        return super().get_config() | {"dynamics": keras.saving.serialize_keras_object(self.dynamics)} | config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ODEBlock":
        dynamics = keras.saving.deserialize_keras_object(config["dynamics"])
        return cls(**(config | {"dynamics": dynamics}))


def _checked_tol(name: str, value: float) -> float:
    return float(check_range(name, value, low=0, low_open=True))


def _checked_steps(value: int | None) -> int:
    return int(check_range("num_steps", 1 if value is None else value, low=1))


def _is_shape(value: Any) -> bool:
    return all(d is None or isinstance(d, int) for d in value)
