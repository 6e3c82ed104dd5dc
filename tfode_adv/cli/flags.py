"""The flags that several programs share, one function a group.

A program owns its flags: `FLAGS = flags.new(__doc__)`, then the groups it needs, then its own with
absl's `DEFINE_*(..., flag_values=FLAGS)`. Names of models, data sets, solvers and attacks are not
checked here but where they are looked up, so that each list of choices stands once.
"""

import contextlib
import functools
import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from tfode_adv.attacks.norm_names import NORMS
from tfode_adv.errors import LARGEST_FLOAT, MOST_INTEGER, SMALLEST_FLOAT, UsageError
from tfode_adv.solvers import block_options
from tfode_adv.training.choices import MAX_SEED


def new(doc: str) -> flags.FlagValues:
    """An empty set of flags for a program described by `doc`; it knows `--help` and `--flagfile`."""
    values = flags.FlagValues()
    # FlagValues takes attributes for flags.
    object.__setattr__(values, "doc", (doc or "").strip())
    object.__setattr__(values, "titles", {})
    flags.DEFINE_boolean("help", False, "Show this help and leave.", short_name="h", flag_values=values)
    return values


def help_text(values: flags.FlagValues) -> str:
    """Every flag with its help, by what it is about; those of the program alone come first."""
    grouped: dict[str, list[flags.Flag]] = {"This program's": []}
    for name in values:
        if name == values[name].name:
            grouped.setdefault(values.titles.get(name, "This program's"), []).append(values[name])
    return (
        "\n".join(f"{title}:\n" + "".join(map(_described, found)) for title, found in grouped.items() if found)
        + _FLAGFILE
    )


_FLAGFILE = "\nFlags in a file:\n  --flagfile\n      Reads flags from this file, one a line.\n"


def _described(flag: flags.Flag) -> str:
    kind = f" ({flag.parser.syntactic_help})" if flag.parser.syntactic_help and not flag.boolean else ""
    default = "" if flag.default is None else f" Default: {flag.default_as_str.strip(chr(39)) or 'none'}."
    text = textwrap.fill(f"{flag.help}{kind}{default}", 96, initial_indent=6 * " ", subsequent_indent=6 * " ")
    return f"  --{'[no]' if flag.boolean else ''}{flag.name}\n{text}\n"


@contextlib.contextmanager
def group(values: flags.FlagValues, title: str) -> Iterator[None]:
    """What is defined in the body is about this, for `help_text`."""
    before = set(values)
    yield
    values.titles.update(dict.fromkeys(set(values) - before, title))


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
            except (TypeError, ValueError, OverflowError):
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
    # They are computed with as float32, where these would be infinite, or zero.
    if abs(value) > LARGEST_FLOAT or 0 < abs(value) < SMALLEST_FLOAT:
        raise ValueError(f"{value} is not in float32's range, {SMALLEST_FLOAT:.4g} to {LARGEST_FLOAT:.4g}")
    if low is not None and (value < low or (low_open and value == low)):
        raise ValueError(f"must be {'greater than' if low_open else 'at least'} {low:g}")


class _Integer(flags.IntegerParser):
    """A whole number that fits into 32 bits, as TensorFlow counts."""

    def parse(self, argument: str | int) -> int:
        value = super().parse(argument)
        if abs(value) > MOST_INTEGER:
            raise ValueError(f"it is not in the range of 32 bits, at most {MOST_INTEGER}")
        return value


def define_integer(
    name: str, default: int | None, help: str, flag_values: flags.FlagValues, *, low: int | None = 1
) -> None:
    """A whole number of 32 bits, at least `low`."""
    flags.DEFINE(_Integer(lower_bound=low), name, default, help, flag_values, serializer=flags.ArgumentSerializer())


def integers(name: str, texts: Sequence[str]) -> tuple[int, ...]:
    """The whole numbers of a flag that is a list of them, from 0 on. Raises UsageError for anything else."""
    try:
        return tuple(_Integer(lower_bound=0).parse(text) for text in texts)
    except (TypeError, ValueError) as error:
        given = ",".join(map(str, texts))
        raise UsageError(f"{name} is {given!r}, but must be whole numbers with commas ({error})") from None


def _about(title: str) -> Callable:
    """For a function that defines flags: they are all about this."""

    def decorate(define: Callable) -> Callable:
        @functools.wraps(define)
        def defining(values: flags.FlagValues, **options: Any) -> None:
            with group(values, title):
                define(values, **options)

        return defining

    return decorate


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


@_about("Data")
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
    define_integer("batch_size", batch_size, "How many images a batch has.", values)
    flags.DEFINE_integer(
        "seed", 0, "Seed of everything random.", lower_bound=0, upper_bound=MAX_SEED, flag_values=values
    )


@_about("Model")
def define_model_flags(values: flags.FlagValues, *, model: str | None = "oon") -> None:
    """`--model --filters --blocks --depth --widen --dropout`; None leaves the model's own default."""
    flags.DEFINE_string("model", model, "The classifier: oon, mix, res, sonet, ...", flag_values=values)
    define_integer("filters", None, "Width of the network.", values)
    flags.DEFINE_list("blocks", None, "Blocks per stage, as in 2,2,2,2.", flag_values=values)
    define_integer("depth", None, "Depth of a wide ResNet.", values)
    define_integer("widen", None, "Widening factor of a wide ResNet.", values)
    flags.DEFINE_float(
        "dropout",
        None,
        "Share of features dropped before the last layer.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )


@_about("ODE solver")
def define_solver_flags(values: flags.FlagValues, *, several: bool = False, defaults: bool = True) -> None:
    """`--tol --solver --gradient --num_steps`: a flag for each recorded option of `SolverSettings`.

    Args:
        several: whether those that a grid spans are lists.
        defaults: whether they are those of `SolverSettings`; else None leaves the model's own.
    """
    for option in block_options.recorded():
        default = option.default if defaults else None
        define_option(option, default, values, several=several and option.axis is not None)


def define_option(
    option: block_options.Option, default: Any, values: flags.FlagValues, *, several: bool = False
) -> None:
    """A flag for one option of the solve, or with `several` for a list of its values."""
    if option.kind is str:
        choices = option.choices if option.closed else None
        define_names(option.name, default, option.help, values, choices=choices, several=several)
    elif option.kind is int and not several:
        define_integer(option.name, default, option.help, values)
    else:
        define_number(option.name, default, option.help, values, low=0.0, low_open=True, several=several)


@_about("Attack")
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
    define_integer("steps", None, "Steps of the attack.", values)
    define_integer("restarts", None, "Restarts of the attack.", values)
    flags.DEFINE_boolean("random_start", None, "Start at a random point of the ball.", flag_values=values)
