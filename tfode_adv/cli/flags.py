"""The flags that several programs share, one function a group.

A program owns its flags: `FLAGS = flags.new(__doc__)`, then the groups it needs, then its own with
absl's `DEFINE_*(..., flag_values=FLAGS)`. Names of models, data sets, solvers and attacks are not
checked here but where they are looked up, so that each list of choices stands once.
"""

import math
from collections.abc import Sequence

from absl import flags

from tfode_adv.training.recipe import MAX_SEED

GRADIENTS = ("backprop", "backprop_steps", "adjoint")
NORMS = ("linf", "l2", "l2rms")


def new(doc: str) -> flags.FlagValues:
    """An empty set of flags for a program described by `doc`; it knows `--help` and `--flagfile`."""
    values = flags.FlagValues()
    # FlagValues takes attributes for flags.
    object.__setattr__(values, "doc", (doc or "").strip())
    flags.DEFINE_boolean("help", False, "Show this help and leave.", short_name="h", flag_values=values)
    return values


def as_dict(values: flags.FlagValues) -> dict:
    """Every flag and its value, for `config.json`."""
    return {k: v for k, v in values.flag_values_dict().items() if k not in ("help", "h")}


class _Floats(flags.ArgumentParser):
    """Comma-separated finite numbers."""

    syntactic_help = "comma-separated numbers"

    def __init__(self, low: float | None, low_open: bool):
        self.low, self.low_open = low, low_open

    def parse(self, argument: str | float | Sequence[float]) -> list[float]:
        if isinstance(argument, str):
            argument = argument.split(",")
        values = []
        for part in argument if isinstance(argument, Sequence) else [argument]:
            try:
                values.append(float(part))
            except ValueError:
                raise ValueError(f"{part!r} is not a number") from None
            _check_number(values[-1], self.low, self.low_open)
        return values

    def flag_type(self) -> str:
        return "comma-separated numbers"


class _Float(_Floats):
    """One finite number."""

    syntactic_help = "a number"

    def parse(self, argument: str | float) -> float:
        values = super().parse(argument)
        if len(values) != 1:
            raise ValueError("one number is wanted, not a list")
        return values[0]

    def flag_type(self) -> str:
        return "float"


def _check_number(value: float, low: float | None, low_open: bool) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    if low is not None and (value < low or (low_open and value == low)):
        raise ValueError(f"must be {'greater than' if low_open else 'at least'} {low:g}")


def define_number(
    name: str,
    default: float | Sequence[float] | None,
    help: str,
    flag_values: flags.FlagValues,
    *,
    low: float | None = None,
    low_open: bool = False,
    several: bool = False,
) -> None:
    """A finite number, or with `several` a comma-separated list of them, at least (or above) `low`."""
    parser = (_Floats if several else _Float)(low, low_open)
    serializer = flags.CsvListSerializer(",") if several else flags.ArgumentSerializer()
    flags.DEFINE(parser, name, default, help, flag_values=flag_values, serializer=serializer)


def define_names(
    name: str,
    default: str | Sequence[str] | None,
    help: str,
    flag_values: flags.FlagValues,
    *,
    choices: Sequence[str] | None = None,
    several: bool = False,
) -> None:
    """A name, or with `several` a comma-separated list; one of `choices` where they are given."""
    if several:
        default = [default] if isinstance(default, str) else default
        flags.DEFINE_list(name, default, help, flag_values=flag_values)
        if choices:
            flags.register_validator(
                name,
                lambda given: all(item in choices for item in given or ()),
                f"must be one or more of: {', '.join(choices)}",
                flag_values=flag_values,
            )
    elif choices:
        flags.DEFINE_enum(name, default, choices, help, flag_values=flag_values)
    else:
        flags.DEFINE_string(name, default, help, flag_values=flag_values)


def define_data_flags(values: flags.FlagValues, *, dataset: str | None = "mnist_5k", batch_size: int = 128) -> None:
    """`--dataset --data_dir --download --batch_size --seed`."""
    flags.DEFINE_string(
        "dataset",
        dataset,
        "mnist_5k, mnist, fashion_mnist, cifar10, cifar100, svhn_cropped, another TFDS image "
        "classification set, or folder:PATH.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "data_dir", None, "Where TFDS data sets are prepared (default: TFDS's own).", flag_values=values
    )
    flags.DEFINE_boolean(
        "download",
        True,
        "Download and prepare the data set if it is not there; --nodownload refuses.",
        flag_values=values,
    )
    flags.DEFINE_integer("batch_size", batch_size, "Images a step.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "seed", 0, "Seed of everything random.", lower_bound=0, upper_bound=MAX_SEED, flag_values=values
    )


def define_model_flags(values: flags.FlagValues, *, model: str | None = "oon") -> None:
    """`--model --filters --blocks --depth --widen --dropout`; None leaves the model's own default."""
    flags.DEFINE_string("model", model, "The classifier: oon, mix, res, sonet, ...", flag_values=values)
    flags.DEFINE_integer("filters", None, "Width of the network.", lower_bound=1, flag_values=values)
    flags.DEFINE_list("blocks", None, "Blocks per stage, as in 2,2,2,2.", flag_values=values)
    flags.DEFINE_integer("depth", None, "Depth of a wide ResNet.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("widen", None, "Widening factor of a wide ResNet.", lower_bound=1, flag_values=values)
    flags.DEFINE_float(
        "dropout",
        None,
        "Share of features dropped before the last layer.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )


def define_solver_flags(
    values: flags.FlagValues,
    *,
    several: bool = False,
    tol: float | Sequence[float] | None = 1e-3,
    solver: str | None = "dopri5",
    gradient: str | None = "backprop",
) -> None:
    """`--tol --solver --gradient --num_steps`; with `several`, lists that span a grid."""
    define_number(
        "tol",
        tol,
        "Tolerance of the ODE solver: rtol = atol.",
        values,
        low=0.0,
        low_open=True,
        several=several,
    )
    define_names(
        "solver",
        solver,
        "dopri5, bosh3, heun2, tfp (adaptive); euler, midpoint, rk4, kutta38 (fixed step).",
        values,
        several=several,
    )
    define_names(
        "gradient",
        gradient,
        f"How an ODEBlock is differentiated: {', '.join(GRADIENTS)}.",
        values,
        choices=GRADIENTS,
        several=several,
    )
    flags.DEFINE_integer("num_steps", None, "Steps of a fixed-step solver.", lower_bound=1, flag_values=values)


def define_attack_flags(values: flags.FlagValues, *, several: bool = False, attack: str = "pgd") -> None:
    """`--attack --norm --eps --step_size --steps --restarts --random_start`.

    With `several`, `--attack`, `--norm` and `--eps` are lists that span a grid. None leaves the
    published value of the data set, or the attack's own default.
    """
    define_names("attack", attack, "pgd, spsa, cw, ...; an unknown name lists them all.", values, several=several)
    define_names(
        "norm",
        "linf",
        "linf, l2 (Euclidean) or l2rms (root mean square over the elements).",
        values,
        choices=NORMS,
        several=several,
    )
    define_number("eps", None, "Radius of the perturbation.", values, low=0.0, several=several)
    define_number("step_size", None, "Length of an attack's step.", values, low=0.0, low_open=True)
    flags.DEFINE_integer("steps", None, "Steps of the attack.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("restarts", None, "Restarts of the attack.", lower_bound=1, flag_values=values)
    flags.DEFINE_boolean("random_start", None, "Start at a random point of the ball.", flag_values=values)
