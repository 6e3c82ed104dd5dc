"""The classes of `tfp.math.ode` that a solver extends, returns and takes: stand-ins of the same fields without TFP.

TensorFlow Probability breaks with some versions of TensorFlow and Keras, and only `solver="tfp"` computes with it. So
this is the one module that imports it, and an import that fails is kept until TFP itself is asked for.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from tfode_adv.errors import RunError

_FAILURE: Exception | None = None
try:
    # Not by way of `tfp.math`, which wants an older Keras besides, and takes its time to import it.
    from tensorflow_probability.python.math.ode import ChosenBySolver, DormandPrince, Results, Solver
    from tensorflow_probability.python.math.ode.base import Diagnostics as TfpDiagnostics
except Exception as error:  # A TFP that does not fit its TensorFlow may fail with anything.
    _FAILURE = error

    class Solver:  # type: ignore[no-redef]
        """What `tfp.math.ode.Solver` keeps of its arguments."""

        def __init__(self, make_adjoint_solver_fn: Callable | None, validate_args: bool, name: str):
            self._make_adjoint_solver_fn = make_adjoint_solver_fn or (lambda: self)
            self._validate_args, self._name = validate_args, name

        @property
        def name(self) -> str:
            return self._name

    class DormandPrince(Solver):  # type: ignore[no-redef]
        """In the place of `tfp.math.ode.DormandPrince`, of which `Dopri5` is one."""

    class TfpDiagnostics:  # type: ignore[no-redef]
        """In the place of `tfp.math.ode.Diagnostics`."""

        __slots__ = ()

    class Results(NamedTuple):  # type: ignore[no-redef]
        """Times `[T]`, states `[T, *batch, ...]`, what the solve cost, and where a further one may start."""

        times: Any
        states: Any
        diagnostics: Any
        solver_internal_state: Any

    class ChosenBySolver(NamedTuple):  # type: ignore[no-redef]
        """Solution times that the solver chooses, up to `final_time`."""

        final_time: Any


def stock_method(asker: str) -> type[Solver]:
    """TensorFlow Probability's own method, for `asker`, what needs it.

    Raises:
        RunError: if TensorFlow Probability is not installed, or does not fit the TensorFlow that is.
    """
    if _FAILURE is None:
        return DormandPrince
    if isinstance(_FAILURE, ModuleNotFoundError):
        reason = f"which is not installed ({_FAILURE})"
    else:
        reason = f"which cannot be imported here ({type(_FAILURE).__name__}: {' '.join(str(_FAILURE).split())[:200]})"
    raise RunError(f"{asker} needs TensorFlow Probability, {reason}; dopri5 is the same method") from _FAILURE
