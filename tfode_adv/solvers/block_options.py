"""How an ODE block is solved, in one vocabulary: each option once, with its check and where it counts.

Layers, models, attacks, evaluations and flags derive what they take from the fields of `SolverSettings`: a new option
is one field here, and the code that obeys it.
"""

import dataclasses
import functools
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tfode_adv.errors import MOST_INTEGER, UsageError, check_choice, check_integer, check_range
from tfode_adv.solvers.names import (
    CHECKPOINTS,
    ENDPOINTS,
    GRADIENTS,
    ON_FAILURE,
    PRECISIONS,
    STOCK,
    GradientObject,
    SolverObject,
    available,
)


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of `SolverSettings`.

    Attributes:
        name: the field's.
        default: its value where none is given.
        kind: float (above 0), int (at least 1) or str (one of `choices`).
        optional: whether it may be None.
        help: a sentence about it.
        choices: what a str may be.
        closed: whether flags check the choices themselves.
        objects: what may stand in the place of a str.
        live: compiled functions read it anew at each call, so that another value needs no new trace; inside
            `solver_settings` it may be a tensor.
        backward: it is of the gradient alone; the solve is the same.
        recorded: it is part of an evaluation's configuration, and so of its digest, and has a flag of its own.
        axis: what a list of values is called, where a grid spans several.
        surrogate: an evaluation has it for the solve that a gradient is taken through, with a flag there.
    """

    name: str
    default: Any
    kind: type
    optional: bool
    help: str
    choices: Sequence[str] = ()
    closed: bool = False
    objects: type | None = None
    live: bool = False
    backward: bool = False
    recorded: bool = False
    axis: str | None = None
    surrogate: bool = False

    def check(self, value: Any) -> Any:
        """Returns `value` as it is kept; raises `UsageError` where it is out of range."""
        if value is None and self.optional:
            return None
        if self.objects and isinstance(value, self.objects):
            return value
        if self.kind is str:
            return check_choice(self.name, value, self.choices)
        if self.kind is int:
            return check_integer(self.name, self.default if value is None else value, low=1, high=MOST_INTEGER)
        return float(check_range(self.name, value, low=0, low_open=True))

    @property
    def span(self) -> str:
        """What a grid calls its values."""
        return self.axis or self.name


def option(default: Any, help: str, **facts: Any) -> Any:
    """Declares an option: `facts` are those of `Option`, and the annotation says kind and whether it may be None."""
    return dataclasses.field(default=default, metadata={"help": help, **facts})


@dataclasses.dataclass(frozen=True)
class SolverSettings:
    """How a block is solved; what each option means is said in `tfode_adv.layers.ODEBlock`.

    Two that are equal are solved alike, so that an object is its own key in a cache.

    Raises:
        UsageError: for a value out of range.
    """

    tol: float = option(1e-3, "Tolerance of the ODE solver: rtol = atol.", live=True, recorded=True, axis="tols")
    solver: str | SolverObject = option(
        "dopri5",
        "dopri5, dopri5_cas, bosh3, heun2, tfp (adaptive); euler, midpoint, rk4, kutta38 (fixed step).",
        choices=available(),
        objects=SolverObject,
        recorded=True,
        axis="solvers",
    )
    gradient: str | GradientObject = option(
        "backprop",
        f"How an ODEBlock is differentiated: {', '.join(GRADIENTS)}.",
        choices=tuple(GRADIENTS),
        closed=True,
        objects=GradientObject,
        backward=True,
        recorded=True,
        axis="gradients",
    )
    num_steps: int = option(1, "Steps of a fixed-step solver.", live=True, recorded=True)
    checkpoint: str = option(
        "auto", "What backpropagation keeps: auto, steps or none.", choices=CHECKPOINTS, backward=True
    )
    max_num_steps: int = option(1000, "Steps tried before a sample fails.")
    on_failure: str = option("raise", "What becomes of failed samples: raise or status.", choices=ON_FAILURE)
    adjoint_tol: float | None = option(None, "Tolerance of the adjoint solve; None means `tol`.", backward=True)
    adjoint_solver: str | SolverObject | None = option(
        None,
        "Solver of the adjoint equation; None means `solver`.",
        choices=tuple(name for name in available() if name != STOCK),
        objects=SolverObject,
        backward=True,
    )
    endpoint: str = option("interpolate", "How the last step ends: interpolate or clip.", choices=ENDPOINTS)
    min_step: float | None = option(None, "Shortest step; None: no bound.")
    max_step: float | None = option(None, "Longest step; None: no bound.")
    first_step_size: float | None = option(None, "First step tried; None: chosen for each sample.")
    precision: str | None = option(
        None,
        f"Number type of the dynamics: {', '.join(PRECISIONS)}.",
        choices=PRECISIONS,
        closed=True,
        surrogate=True,
    )

    def __post_init__(self):
        for each in options():
            value = getattr(self, each.name)
            # For one call, a tensor may stand in for a live option.
            if not (each.live and _is_tensor(value)):
                object.__setattr__(self, each.name, each.check(value))

    def override(self, **given: Any) -> "SolverSettings":
        """The same with other values for what is given: the one way to change settings.

        Raises:
            UsageError: for an option there is not, or a value out of range.
        """
        check_names(given)
        return dataclasses.replace(self, **given)

    @property
    def forward(self) -> "SolverSettings":
        """What of it the solve itself depends on: the same with all that is of the gradient as by default."""
        return self.override(**{each.name: each.default for each in options() if each.backward})


@functools.cache
def options() -> tuple[Option, ...]:
    """Every option, in the order of the fields."""
    found = []
    for field in dataclasses.fields(SolverSettings):
        kinds = typing.get_args(field.type) or (field.type,)
        found.append(Option(field.name, field.default, kinds[0], type(None) in kinds, **field.metadata))
    return tuple(found)


def names() -> list[str]:
    """The names of all options."""
    return [each.name for each in options()]


def named(name: str) -> Option:
    """The option of this name."""
    return next(each for each in options() if each.name == name)


def recorded() -> list[Option]:
    """The options that an evaluation's configuration holds."""
    return [each for each in options() if each.recorded]


def of_gradients() -> list[Option]:
    """The same of another solve that a gradient is taken through, as an evaluation calls them: gradient_tol, ..."""
    return [
        dataclasses.replace(each, name=f"gradient_{each.name}", help=f"For the gradient alone. {each.help}", axis=None)
        for each in options()
        if (each.recorded and not each.backward) or each.surrogate
    ]


def check_names(given: Iterable[str]) -> None:
    """Raises `UsageError` for the name of an option there is not."""
    for name in given:
        check_choice("setting", name, names())


def checked(given: Mapping[str, Any], tensors: bool = False) -> dict[str, Any]:
    """Those of `given` that are not None, which leaves an option as it is, each a value as it is kept.

    Args:
        tensors: whether a tensor or an array may stand for a live option.

    Raises:
        UsageError: for an option there is not, or a value out of range.
    """
    check_names(given)
    given, found = parted(given), {}
    for each in options():
        value = given.get(each.name)
        if tensors and each.live and isinstance(value, np.ndarray):
            import tensorflow as tf

            value = tf.convert_to_tensor(value)
        if tensors and each.live and _is_tensor(value):
            for one in np.ravel(value.numpy()) if hasattr(value, "numpy") and _eager() else []:
                each.check(one.item())
            found[each.name] = value
        elif value is not None:
            found[each.name] = each.check(value)
    return found


def parted(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """`given`, with what a solver object says of other options in their own places, where they are not given.

    Raises:
        UsageError: for a solver whose relative and absolute tolerances differ: a block has one for both.
    """
    solver = given.get("solver")
    if not isinstance(solver, SolverObject):
        return given
    said = solver.get_config()
    tols = [said.pop(name) for name in ("rtol", "atol") if name in said]
    if tols and (len(tols) == 1 or tols[0] != tols[1]):
        raise UsageError(f"solver has rtol, atol {tols}, but a block has one tol for both: give it that")
    own = {"tol": tols[0]} if tols else {}
    # A first step for each sample is no option of a block: such a one stays with the solver.
    own |= {name: said.pop(name) for name in names() if name in said and not _several(said[name])}
    if not own:
        return given
    return own | {name: value for name, value in given.items() if value is not None} | {"solver": type(solver)(**said)}


def name_of(value: Any) -> Any:
    """The name of a solver or gradient; any other value as it is."""
    return value.tableau.name if isinstance(value, SolverObject) else getattr(value, "name", value)


def _several(value: Any) -> bool:
    return _is_tensor(value) or np.ndim(value) > 0


def _is_tensor(value: Any) -> bool:
    # As long as nobody has imported TensorFlow, there is no tensor of it.
    tf = sys.modules.get("tensorflow")
    return (tf is not None and tf.is_tensor(value)) or hasattr(value, "assign")


def _eager() -> bool:
    import tensorflow as tf

    return tf.executing_eagerly()
