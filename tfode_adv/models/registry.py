"""Models by name: `build`, and `available`, which lists them."""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfode_adv.errors import UsageError, check_choice, check_integer, check_range
from tfode_adv.solvers import block_options

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class Family:
    """A model's builder, its options with their defaults, and the ODE settings it was published with."""

    builder: Callable
    summary: str
    options: dict[str, Any]
    ode: dict[str, Any] = dataclasses.field(default_factory=dict)


def _builder(module: str, name: str) -> Callable:
    """The function `name` of a module of this package, imported when it is called."""

    def build(*arguments, **options):
        return getattr(importlib.import_module(f"tfode_adv.models.{module}"), name)(*arguments, **options)

    return build


_WIFS = {"filters": 64, "dropout": 0.5}
_STAGES = {"filters": 64, "blocks": (2, 2, 2, 2)}
_RESNET10 = {"filters": 64, "blocks": (1, 1, 1, 1)}
_WIDE = {"filters": 16, "depth": 34, "widen": 10}
_MSML_ODE = {"tol": 0.1}
_TISODE = {"filters": 64}
_SODEF_ODE = {"tol": 1e-5, "gradient": "adjoint", "final_time": 5.0}
_GAINS_ODE = {"solver": "dopri5_cas", "tol": 0.005, "endpoint": "clip"}

FAMILIES = {
    "res": Family(_builder("wifs", "res"), "WIFS 2019: eight residual blocks, no ODE", _WIFS),
    "mix": Family(_builder("wifs", "mix"), "WIFS 2019: two residual blocks, then one ODE block", _WIFS),
    "oon": Family(_builder("wifs", "oon"), "WIFS 2019: one convolution, then one ODE block", _WIFS),
    "sonet": Family(_builder("sonet", "sonet"), "MSML 2021: skew-symmetric ODE blocks only", _STAGES, _MSML_ODE),
    "resnet10": Family(_builder("resnet", "resnet10"), "MSML 2021: four stages of basic blocks, no ODE", _RESNET10),
    "soblock_resnet10": Family(
        _builder("resnet", "soblock_resnet10"), "MSML 2021: resnet10 behind an SO block", _RESNET10, _MSML_ODE
    ),
    "wide_resnet": Family(_builder("resnet", "wide_resnet"), "MSML 2021: wide ResNet, no ODE", _WIDE),
    "soblock_wide_resnet": Family(
        _builder("resnet", "soblock_wide_resnet"), "MSML 2021: wide ResNet behind an SO block", _WIDE, _MSML_ODE
    ),
    "odenet_tq": Family(
        _builder("odenet", "odenet_tq"),
        "MSML 2021: ten ODE blocks at full resolution (TisODE's ODENet)",
        {"filters": 54, "blocks": (10,)},
        _MSML_ODE,
    ),
    "tisode": Family(
        _builder("tisode", "tisode"),
        "ICLR 2020: two convolutions, then one time-invariant ODE block",
        _TISODE,
        {"solver": "euler", "num_steps": 20},
    ),
    "tisode_odenet": Family(
        _builder("tisode", "tisode_odenet"),
        "ICLR 2020: TisODE's ODENet for MNIST, whose dynamics see the time",
        _TISODE,
        {"solver": "euler", "num_steps": 10},
    ),
    "tisode_cnn": Family(
        _builder("tisode", "tisode_cnn"), "ICLR 2020: the same with a residual block, no ODE", _TISODE
    ),
    "gains": Family(
        _builder("gains", "gains"),
        "ICLR 2023: two convolutions, then one ODE block to be certified",
        {"filters": 32},
        _GAINS_ODE,
    ),
    "sodef": Family(
        _builder("sodef", "sodef"),
        "NeurIPS 2021: ResNet18's features, then one ODE block to be stable",
        _STAGES,
        _SODEF_ODE,
    ),
    "sodef_features": Family(
        _builder("sodef", "sodef_features"), "NeurIPS 2021: SODEF's features behind a fixed head, no ODE", _STAGES
    ),
    "lyanet": Family(
        _builder("lyanet", "lyanet"),
        "ICML 2022: ResNet18's features say how one ODE block moves the logits",
        _STAGES | {"dropout": 0.5},
    ),
}


def available() -> dict[str, str]:
    """The models `build` knows: name to one line about it."""
    return {name: family.summary for name, family in FAMILIES.items()}


def build(
    name: str,
    input_shape: Sequence[int] = (28, 28, 1),
    num_classes: int = 10,
    *,
    filters: int | None = None,
    blocks: Sequence[int] | None = None,
    depth: int | None = None,
    widen: int | None = None,
    dropout: float | None = None,
    normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    initialization: str = "torch",
    **ode: Any,
) -> "keras.Model":
    """A classifier of the papers: images `[B, H, W, C]` in [0, 1] to logits `[B, num_classes]`.

    None takes the family's default. An option that the family does not have must stay None.

    Args:
        name: one of `available()`.
        input_shape: (H, W, C) of an image.
        num_classes: how many logits an image gets, at least 2.
        filters: the width. WIFS 2019: the ODE block's channels, 64 for MNIST (the default) and 256 for
            CIFAR-10. `sonet`, `resnet10`, `sodef`: the first stage's, 64. Wide ResNets: the first layer's, 16.
            `odenet_tq`: 54. TisODE's: 64. `gains`: 32. `lyanet`: the first stage's, 64, and half its dynamics'.
        blocks: blocks per stage; `sonet` (2, 2, 2, 2), `resnet10` (1, 1, 1, 1), `sodef` and
            `lyanet` (2, 2, 2, 2), `odenet_tq` (10,).
        depth: how many layers a wide ResNet has, 6 n + 4 for a whole n; 34 by default.
        widen: the factor on the widths of a wide ResNet's stages; 10 by default.
        dropout: the share that the WIFS 2019 head, or LyaNet's dynamics, leaves out in training, in [0, 1); 0.5 by
            default.
        normalization: (mean, standard deviation), each of one number or one a channel, applied to the
            image inside the model; None for none.
        initialization: `"torch"`, PyTorch's default for convolutions and dense layers, as in the published
            training; `"keras"` for Keras's; or `"he_fan_out"`, see `layers.initializers`.
        **ode: settings of every `ODEBlock`: `solver`, `tol`, `gradient`, `num_steps` and the others it
            takes. Defaults are the block's own, but tol = 0.1 for the MSML models, Euler's method for
            TisODE's: 20 steps, or 10 for `tisode_odenet`, and for `gains` "dopri5_cas" of tol = 0.005 that ends by
            "clip", whose first step, `first_step_size`, is a checkpoint's; `sodef` has tol = 1e-5, the adjoint
            and `final_time` = 5. A model without an ODE block checks and
            then ignores them.

    Returns:
        A functional `keras.Model` named `name`. Its ODE blocks are `ODEBlock` layers.

    Raises:
        UsageError: an unknown name, an option the family lacks, or a value out of range.
    """
    family = FAMILIES[check_choice("model", name, FAMILIES)]

    import keras

    from tfode_adv.layers import ODEBlock
    from tfode_adv.layers.initializers import INITIALIZATIONS

    given = {"filters": filters, "blocks": blocks, "depth": depth, "widen": widen, "dropout": dropout}
    options = _options(name, family, {key: value for key, value in given.items() if value is not None})
    image_shape = _image_shape(input_shape)
    num_classes = check_integer("num_classes", num_classes, low=2)
    check_choice("initialization", initialization, INITIALIZATIONS)
    settings = tuple(inspect.signature(ODEBlock).parameters)[1:-1]
    for setting in ode:
        check_choice("option", setting, settings)
    # A family without an ODE block refuses the same values as the others; named, it leaves Keras's counts alone.
    ODEBlock(lambda t, h: h, name="checked", **ode)

    def ode_block(dynamics, **kwargs):
        return ODEBlock(dynamics, **(family.ode | ode), **kwargs)

    inputs = keras.Input(image_shape, name="image")
    x = inputs if normalization is None else _standardize(inputs, normalization)
    logits = family.builder(x, num_classes, ode_block, initialization=initialization, **options)
    return keras.Model(inputs, logits, name=name)


def check_options(name: str, given: Mapping[str, Any]) -> None:
    """Checks what `build` would make of these of its options, as far as that shows without making it.

    Raises:
        UsageError: an unknown name, an option the family lacks, or a value out of range.
    """
    family = FAMILIES[check_choice("model", name, FAMILIES)]
    sizes = {option for each in FAMILIES.values() for option in each.options}
    _options(name, family, {key: value for key, value in given.items() if key in sizes and value is not None})
    block_options.checked({key: value for key, value in given.items() if key in block_options.names()})


def _options(name, family, given):
    unknown = sorted(given.keys() - family.options.keys())
    if unknown:
        raise UsageError(f"{name} has no option {', '.join(unknown)}; it has: {', '.join(sorted(family.options))}")
    options = family.options | given
    for key in options.keys() & {"filters", "depth", "widen"}:
        options[key] = check_integer(key, options[key], low=1)
    if "dropout" in options:
        check_range("dropout", options["dropout"], low=0, high=1, high_open=True)
    return options


def _image_shape(input_shape):
    shape = tuple(input_shape) if isinstance(input_shape, Iterable) else ()
    if len(shape) != 3 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in shape):
        raise UsageError(f"input_shape is {input_shape!r}, but must be (height, width, channels), all positive")
    return shape


def _standardize(x, normalization):
    """(x - mean) / standard deviation per channel, as a layer without weights."""
    import keras

    channels = x.shape[-1]
    try:
        mean, deviation = (np.broadcast_to(np.asarray(v, np.float64), channels) for v in normalization)
    except (TypeError, ValueError):
        raise UsageError(
            f"normalization is {normalization!r}, but must be (mean, standard deviation), each one number or {channels}"
        ) from None
    for value in mean.tolist():
        check_range("the mean of normalization", value)
    for value in deviation.tolist():
        check_range("the standard deviation of normalization", value, low=0, low_open=True)
    return keras.layers.Normalization(mean=mean.tolist(), variance=np.square(deviation).tolist(), name="normalization")(
        x
    )
