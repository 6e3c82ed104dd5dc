"""A Keras layer that integrates a dynamics."""

import inspect
import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfode_adv import solvers
from tfode_adv.errors import UsageError, check_range
from tfode_adv.keras_internals import sublayers
from tfode_adv.layers import shared_dynamics
from tfode_adv.layers.context import Statistics, current_settings, note_read, note_start, record
from tfode_adv.layers.dynamics_arguments import NAME, Arguments
from tfode_adv.layers.number_types import computing_in
from tfode_adv.layers.serializing import deserialized, serialized
from tfode_adv.layers.stock_solver import solve_stock
from tfode_adv.layers.training_mode import Evaluation, check_steady, steady_evaluation
from tfode_adv.solvers import block_options
from tfode_adv.solvers.graph_mode import in_xla
from tfode_adv.solvers.refused_gradients import refuse_followed
from tfode_adv.solvers.runge_kutta import exact
from tfode_adv.solvers.status import check_status, without_failed


class _Setting:
    """An option of the block's settings as an attribute, checked whenever it is set."""

    def __init__(self, option: block_options.Option):
        self._option, self.__doc__ = option, option.help

    def __get__(self, block: Any, owner: type | None = None) -> Any:
        if block is None:
            return self
        name = self._option.name
        # Variables are read only where they are asked for: while a function is traced they have no value.
        return getattr(block, f"_{name}").numpy().item() if self._option.live else getattr(block._fixed, name)

    def __set__(self, block: Any, value: Any) -> None:
        for name, each in block_options.parted({self._option.name: value}).items():
            option = block_options.named(name)
            if option.live:
                getattr(block, f"_{name}").assign(option.check(each))
            else:
                block._fixed = block._fixed.override(**{name: each})


def _with_settings(block: type) -> type:
    """A class of blocks with an attribute for each option, and each in its signature."""
    *named, rest = inspect.signature(block.__init__).parameters.values()
    arguments = {each.name: each for each in named}
    for option in block_options.options():
        setattr(block, option.name, _Setting(option))
        known = arguments.get(option.name) or inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY)
        arguments[option.name] = known.replace(default=option.default)
    block.__init__.__signature__ = inspect.Signature([*arguments.values(), rest])
    return block


@_with_settings
@keras.saving.register_keras_serializable(package="tfode_adv")
class ODEBlock(keras.layers.Layer):
    """Integrates dh/dt = dynamics(t, h) from t = 0 to `final_time`: an ODE-Net's block.

    Chen et al., "Neural Ordinary Differential Equations", NeurIPS 2018; WIFS 2019, section 3.

    Called on a state `[B, ...]`, or a nested structure of them, it returns the state at `final_time`. Every sample
    has its own step sizes, so a prediction does not depend on what else is in the batch. With mixed precision only
    the dynamics computes in half precision.

    Called as `block(h0, condition=c)`, it integrates dh/dt = dynamics(t, h, c): c, `[B, ...]` or a nested structure, is
    what each sample's dynamics depends on and no part of what is integrated, nor of the error that sets the steps. All
    gradients reach it. Samples that are done stay in the batch then, integrated no further but evaluated along.

    The dynamics must treat samples independently. It is called with any number of samples, those still integrated, many
    times a solve, and by the backward pass again; with the `training` that the block was called with. Its random
    layers, such as dropout, draw once a solve: the same numbers in every evaluation and in the backward pass, others in
    the next solve, none in inference. Layers that change from one evaluation to the next are refused:
    `BatchNormalization` that is not frozen, `SpectralNormalization`, recurrent cells with dropout. Random numbers are
    known by the `keras.random.SeedGenerator` of a layer; those drawn otherwise, or by layers that a plain function
    calls, are not.

    Args:
        dynamics: a Keras layer, or callable, `f(t, h)` that returns dh/dt of h's structure and shapes; an autonomous
            one may be `f(h)`, such as a `keras.Sequential`; one with a condition is `f(t, h, c)`, or has an argument
            called `condition`, as `f(h, condition)`. `t` is a scalar, or one time a sample shaped to broadcast
            against the state's first component. Only a layer's weights belong to the block: those that a plain
            function closes over are neither trained by `fit` nor saved. Several blocks may share a layer: a saved model
            shares it still, while copies from configs (`clone_model`) have one each, of which a warning tells.
        solver: "dopri5", "bosh3", "heun2", "dopri5_cas" (adaptive; the last as `tfode_adv.solvers.Dopri5CAS` says),
            "euler", "midpoint", "rk4", "kutta38" (`num_steps` equal steps), or "tfp", the stock
            `tfp.math.ode.DormandPrince`: the batch shares one step size, the gradient is its own adjoint whatever
            `gradient` says, and a failed solve is its own error, whatever `on_failure` says.
        tol: tolerance of adaptive solvers, relative and absolute, > 0.
        gradient: "backprop", through the accepted steps with step sizes held constant; "backprop_steps", through the
            step sizes too, as the MSML program and WIFS's without its adjoint option did (far from the solution's
            where the dynamics is stiff, see `tfode_adv.solvers.BackpropSteps`); or "adjoint", the continuous adjoint
            equation.
        final_time: > 0.
        num_steps: steps of a fixed-step solver; default 1.
        checkpoint: what "backprop" keeps for its backward pass: "auto", "steps" or "none" (see
            `tfode_adv.solvers.RungeKuttaSolver`).
        adjoint_tol: tolerance of the adjoint solve; None means `tol`.
        adjoint_solver: solver of the adjoint equation; None means `solver`.
        max_num_steps: steps tried before a sample fails.
        on_failure: "raise": a failed sample raises `tfode_adv.solvers.SolveError` (compiled functions:
            `tf.errors.InvalidArgumentError`; under XLA, which raises nothing, it comes out as NaN), and so does one
            whose adjoint solve fails (under XLA its gradient is NaN, and that of all weights); "status": its last
            good state is returned, and its status stands in the statistics; if its adjoint solve fails, its gradient
            is zero and that of all weights NaN.
        endpoint: "interpolate": an adaptive solver's last step may pass `final_time`, and the state there is read off
            its dense output (the papers'); "clip": the last step is shortened, so that the dynamics is never
            evaluated past `final_time`, nor by the adjoint before 0. The papers' dense output of bosh3 at the end is
            of a lower order than its steps: of dh/dt = -h at a tolerance of 1e-5, h(1) is 6e-4 off, and 1e-5 with
            "clip"; with dopri5 3e-6 and 4e-6.
        min_step: size below which an adaptive solver proposes no step, > 0; a sample that is rejected with it fails.
        max_step: size above which it proposes none, > 0: where the error is far below the tolerance, as near a state
            at rest, steps grow past the bound of stability, and so does the gradient. None for either: no bound.
        first_step_size: size of an adaptive solver's first step, > 0; None chooses one for each sample (Hairer,
            Norsett, Wanner, Solving ODEs I, II.4).
        precision: "bfloat16", "float16" or "float32": the type that the dynamics, a layer with weights in float32,
            computes in; the solver's own arithmetic stays as it is. None: the layers' own.

    `fit`, `evaluate` and `predict` do not use XLA unless the whole model is put into a `tf.function` of your own with
    `jit_compile=True`. A solve that a `GradientTape` records there takes at most 128 steps, rejected ones included: a
    sample that needs more fails (not with `gradient="adjoint"`, and not in a function compiled without a tape).

    Raises:
        UsageError: for a value out of range or an unknown choice; when built, for a dynamics with layers that differ
            in training; when called, for a condition that the dynamics does not take, or none where it needs one.
    """

    def __init__(
        self,
        dynamics: Callable,
        solver: str | None = None,
        tol: float | None = None,
        gradient: str | None = None,
        final_time: float = 1.0,
        num_steps: int | None = None,
        **kwargs: Any,
    ):
        given = {name: kwargs.pop(name) for name in block_options.names() if name in kwargs}
        super().__init__(**kwargs)
        if not callable(dynamics):
            raise UsageError(f"dynamics is {dynamics!r}, but must be a layer or function f(t, h)")
        self.dynamics = dynamics
        self._arguments = Arguments(dynamics)
        shared_dynamics.hold(dynamics, self)
        self.final_time = final_time
        given |= {"solver": solver, "tol": tol, "gradient": gradient, "num_steps": num_steps}
        given = block_options.checked(given)
        # Keras compiles models by XLA of its own accord where there is a GPU; XLA drops the check for failed solves.
        self.supports_jit = False
        # Plain TensorFlow variables: settings that compiled functions read anew at each call, not weights.
        for option in (option for option in block_options.options() if option.live):
            dtype = tf.float64 if option.kind is float else tf.int32
            with tf.init_scope():
                value = tf.Variable(given.pop(option.name, option.default), False, dtype=dtype, name=option.name)
            setattr(self, f"_{option.name}", value)
        self._fixed = block_options.SolverSettings().override(**given)

    @property
    def settings(self) -> block_options.SolverSettings:
        """How the block is solved. Functions compiled before it is set keep all but its live options."""
        return self._fixed.override(**{option.name: getattr(self, option.name) for option in block_options.options()})

    @settings.setter
    def settings(self, settings: block_options.SolverSettings) -> None:
        for name in block_options.names():
            setattr(self, name, getattr(settings, name))

    @property
    def fixed(self) -> block_options.SolverSettings:
        """The settings that a compiled function keeps as they were when it was traced; live ones are as by default."""
        return self._fixed

    @property
    def final_time(self) -> float:
        """The time integrated to, from 0. Functions compiled before it is set keep the old one."""
        return self._final_time

    @final_time.setter
    def final_time(self, value: float) -> None:
        self._final_time = check_range("final_time", value, low=0, low_open=True)

    def build(self, h0_shape: Any, condition_shape: Any = None) -> None:
        """Builds the dynamics, by calling it on symbols of the state's shapes, and of the condition's."""
        # A layer without a `build` of its own, loaded from a file, counts as built while its sublayers are not.
        layer = isinstance(self.dynamics, keras.layers.Layer)
        if layer and not all(each.built for each in sublayers(self.dynamics, include_self=True)):
            state = _symbols(h0_shape, self.compute_dtype)
            condition = None if condition_shape is None else _symbols(condition_shape, self.compute_dtype)
            rank = len(tf.nest.flatten(state)[0].shape)
            time = keras.KerasTensor((None, *[1] * (rank - 1)), dtype=self.compute_dtype)
            self._arguments(self.dynamics, time, state, condition)
        self._check_steady()
        self.built = True

    def save_own_variables(self, store: Any) -> None:
        """Keeps the shapes that the block was built with, in place of variables, of which it has none of its own."""
        if self.built:
            store["build"] = np.frombuffer(json.dumps(self.get_build_config()).encode(), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """Builds the dynamics first, if its owner has not: Keras gives a layer that is not built no variables."""
        if not self.built and "build" in store:
            self.build_from_config(json.loads(np.asarray(store["build"]).tobytes()))

    def compute_output_spec(self, h0: Any, training: bool | None = None, condition: Any = None) -> Any:
        del training, condition
        return tf.nest.map_structure(lambda x: keras.KerasTensor(x.shape, dtype=self._number_type(x.dtype)), h0)

    def call(self, h0: Any, training: bool | None = None, condition: Any = None) -> Any:
        results = self._solve(h0, [self.final_time], training, condition, note=True)
        return tf.nest.map_structure(lambda x: x[0], results.states)

    def slope(self, t: Any, h: Any, training: bool = False, condition: Any = None) -> Any:
        """dh/dt at a state.

        Args:
            t: the time, a scalar, or one a sample shaped to broadcast against the state's first component.
            h: the state, `[B, ...]`, or a nested structure of them.
            training: whether the dynamics is called as in training.
            condition: `[B, ...]`, or a nested structure, for a dynamics that takes one.

        Returns:
            The same structure and shapes.
        """
        self._ensure_built(h, condition)
        evaluation, _ = steady_evaluation(self.dynamics, training)
        h, given = tf.nest.map_structure(self._cast, h), self._given(condition)
        return self._field(evaluation, False)(tf.cast(t, tf.nest.flatten(h)[0].dtype), h, **given)

    def trajectory(self, h0: Any, times: Any, training: bool = False, condition: Any = None) -> Any:
        """The states at `times`, by the solver's dense output.

        Args:
            h0: the state at t = 0, `[B, ...]`, or a nested structure of them.
            times: increasing, `[T]`, in [0, inf). The last one ends the integration: a fixed-step solver divides the
                time up to it into `num_steps`.
            training: whether the dynamics is called as in training.
            condition: `[B, ...]`, or a nested structure, for a dynamics that takes one.

        Returns:
            `[T, B, ...]`, in the structure of `h0` and the block's type of numbers. No statistics are recorded.

        Raises:
            UsageError: for times that decrease or are negative (`tf.errors.InvalidArgumentError` where they are
                known only at run time; XLA does not check).
            SolveError: if a sample fails and `on_failure` is "raise".
        """
        self._ensure_built(h0, condition)
        return self._solve(h0, times, training, condition).states

    def inverse(self, h1: Any, training: bool = False, condition: Any = None) -> Any:
        """The state at t = 0 whose integration ends in `h1`: the dynamics integrated backwards in time.

        Args:
            h1: the state at `final_time`, `[B, ...]`, or a nested structure of them.
            training: whether the dynamics is called as in training; its random layers draw other numbers than those of
                the solve that ended in `h1`.
            condition: `[B, ...]`, or a nested structure, for a dynamics that takes one.

        Returns:
            The same structure and shapes. No statistics are recorded.

        Raises:
            SolveError: if a sample fails and `on_failure` is "raise".
        """
        self._ensure_built(h1, condition)
        results = self._solve(h1, [self.final_time], training, condition, backwards=True)
        return tf.nest.map_structure(lambda x: x[0], results.states)

    def _ensure_built(self, state: Any, condition: Any) -> None:
        if not self.built:
            given = [state] if condition is None else [state, condition]
            self.build(*tf.nest.map_structure(lambda x: tuple(tf.convert_to_tensor(x).shape), given))

    def _check_steady(self) -> None:
        if isinstance(self.dynamics, keras.layers.Layer):
            check_steady(self.dynamics)

    def _field(self, evaluation: Evaluation, backwards: bool) -> Callable:
        """The field of one solve; `places` `[B]`, where given, says that a sample's place tells in it."""

        def field(t: tf.Tensor, h: Any, places: tf.Tensor | None = None, condition: Any = None) -> Any:
            del places
            if backwards:
                t = exact(self.final_time, t.dtype) - t
            with evaluation():
                slope = self._arguments(self.dynamics, t, h, condition)
            return tf.nest.map_structure(tf.negative, slope) if backwards else slope

        return field

    def _in_precision(self, field: Callable, precision: str) -> Callable:
        """A field whose dynamics computes in another type of numbers, and whose slopes are of the state's."""

        def rounded(t: tf.Tensor, h: Any, **given: Any) -> Any:
            with computing_in(self.dynamics, precision):
                slope = field(t, h, **given)
            return tf.nest.map_structure(lambda s, x: tf.cast(s, x.dtype), slope, h)

        return rounded

    def _solve(
        self,
        h0: Any,
        times: Any,
        training: bool | None,
        condition: Any,
        *,
        backwards: bool = False,
        note: bool = False,
    ) -> solvers.Results:
        self._check_steady()
        note_read(self)
        settings = self._effective_settings()
        h0 = tf.nest.map_structure(self._cast, h0)
        evaluation, draws = steady_evaluation(self.dynamics, training)
        field = self._field(evaluation, backwards)
        if settings.precision is not None:
            field = self._in_precision(field, settings.precision)
        constants = self._given(condition)
        stock = settings.solver == "tfp"
        if stock:
            results = solve_stock(field, h0, times, settings.tol, settings.max_num_steps, constants)
            statistics = _stock_statistics(results.diagnostics, h0)
        else:
            solver = self._make_solver(settings)
            if draws:
                # A mask has a row for each sample.
                constants["places"] = tf.range(tf.shape(tf.nest.flatten(h0)[0])[0])
            results = solver.solve(field, 0.0, h0, times, batch_ndims=1, constants=constants)
            statistics = _statistics(results.diagnostics, solver)
        if note:
            note_start(self, h0, constants.get(NAME))
            record(self, statistics)
        if settings.on_failure == "raise":
            with tf.control_dependencies(check_status(statistics.status, statistics.time)):
                results = results._replace(states=tf.nest.map_structure(tf.identity, results.states))
            if in_xla() and not stock:
                flat = without_failed(tf.nest.flatten(results.states), statistics.status)
                results = results._replace(states=tf.nest.pack_sequence_as(results.states, flat))
        return results

    def _given(self, condition: Any) -> dict[str, Any]:
        """What a field is called with beside time and state: a condition, as an argument by name."""
        if condition is None:
            return {}
        tensors = tf.nest.map_structure(tf.convert_to_tensor, condition)
        return {NAME: tf.nest.map_structure(lambda x: self._cast(x) if x.dtype.is_floating else x, tensors)}

    def _cast(self, component: Any) -> tf.Tensor:
        if isinstance(component, tf.RaggedTensor | tf.SparseTensor):
            raise UsageError(
                f"the state is a {type(component).__name__}, but must be dense: to_tensor or to_dense makes it so"
            )
        component = tf.convert_to_tensor(component)
        return tf.cast(component, self._number_type(component.dtype))

    def _number_type(self, dtype: Any) -> str:
        """The block's type of numbers; a complex state stays one."""
        return tf.as_dtype(dtype).name if tf.as_dtype(dtype).is_complex else self.compute_dtype

    def _effective_settings(self) -> block_options.SolverSettings:
        live = {option.name: getattr(self, f"_{option.name}") for option in block_options.options() if option.live}
        settings = self._fixed.override(**(live | current_settings()))
        refuse_followed(tol=settings.tol)
        return settings

    def _make_solver(self, settings: block_options.SolverSettings) -> solvers.RungeKuttaSolver:
        def make(solver: str | solvers.RungeKuttaSolver, tol: Any, **given: Any) -> solvers.RungeKuttaSolver:
            if solvers.is_adaptive(solver):
                steps = {key: getattr(settings, key) for key in ("endpoint", "min_step", "max_step", "first_step_size")}
                given |= {"rtol": tol, "atol": tol} | {key: each for key, each in steps.items() if each is not None}
            else:
                given |= {"num_steps": settings.num_steps}
            given |= {"max_num_steps": settings.max_num_steps, "validate_args": True}
            if isinstance(solver, str):
                return solvers.get(solver, **given)
            return type(solver)(**(solver.get_config() | given))

        own = {"checkpoint": settings.checkpoint, "tol": settings.adjoint_tol, "solver": settings.adjoint_solver}
        gradient = solvers.gradients.get(settings.gradient, **own)
        if isinstance(gradient, solvers.Adjoint) and isinstance(gradient.solver, str):
            gradient = solvers.Adjoint(solver=make(gradient.solver, gradient.tol or settings.tol))
        return make(
            settings.solver,
            exact(settings.tol, tf.float64),
            gradient=gradient,
            # The block looks at the status itself, once it stands in the statistics.
            on_failure="status",
            on_gradient_failure=settings.on_failure,
        )

    def get_config(self) -> dict[str, Any]:
        config = {name: serialized(getattr(self, name)) for name in ("final_time", *block_options.names())}
        return super().get_config() | {"dynamics": shared_dynamics.serialized(self.dynamics)} | config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ODEBlock":
        settings = {name: deserialized(config[name]) for name in block_options.names() if name in config}
        dynamics = keras.saving.deserialize_keras_object(config["dynamics"])
        return cls(**(config | settings | {"dynamics": dynamics}))


def _statistics(diagnostics: solvers.Diagnostics, solver: solvers.RungeKuttaSolver) -> Statistics:
    accepted, rejected = diagnostics.num_accepted_steps, diagnostics.num_rejected_steps
    backward = solver.gradient.evaluations(solver.tableau, accepted, rejected)
    nfe, status, time = diagnostics.num_ode_fn_evaluations, diagnostics.status, diagnostics.final_time
    return Statistics(nfe, accepted, rejected, status, time, diagnostics.num_steps_at_rest, backward)


def _stock_statistics(diagnostics: Any, h0: Any) -> Statistics:
    batch = tf.shape(tf.nest.flatten(h0)[0])[:1]
    nfe = tf.broadcast_to(tf.cast(diagnostics.num_ode_fn_evaluations, tf.int32), batch)
    status = tf.broadcast_to(tf.cast(diagnostics.status, tf.int32), batch)
    # Stock TFP counts evaluations only: six a step, accepted or not.
    zeros = tf.zeros_like(nfe)
    return Statistics(nfe, nfe // 6, zeros, status, tf.cast(zeros, tf.float32), zeros, None)


def _symbols(shape: Any, dtype: str) -> Any:
    """Symbolic states of a shape, or of a nested structure of shapes."""
    if isinstance(shape, dict):
        return {name: _symbols(each, dtype) for name, each in shape.items()}
    if not _is_shape(shape):
        return tuple(_symbols(each, dtype) for each in shape)
    return keras.KerasTensor((None, *shape[1:]), dtype=dtype)


def _is_shape(value: Any) -> bool:
    return all(d is None or isinstance(d, int) for d in value)
