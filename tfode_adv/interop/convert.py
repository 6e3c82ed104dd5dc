"""Weights of the papers' PyTorch programs in, Keras models out."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfode_adv.errors import UsageError, check_choice
from tfode_adv.files import PathLike
from tfode_adv.interop.architecture import GAINS_FIRST_STEP, architecture
from tfode_adv.interop.checkpoint import cleaned, read_state
from tfode_adv.interop.names import model_names, torch_name, translate
from tfode_adv.models import available, build, ode_blocks

# PyTorch's layouts to TensorFlow's, by rank: OIHW to HWIO (and a transposed convolution's IOHW to HWOI, which
# TensorFlow wants there), (out, in) to (in, out).
LAYOUTS = {0: (), 1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}


def load_torch_state(model: keras.Model, source: PathLike | Mapping[str, np.ndarray]) -> keras.Model:
    """Sets every weight of a model from `tfode_adv.models` to a PyTorch checkpoint's.

    Args:
        model: as built by `tfode_adv.models.build`, of the checkpoint's family and size.
        source: path of a `.npz`, `.pt` or `.pth` file, see `read_state`; or the arrays themselves, under
            PyTorch's names and in its layouts.

    Returns:
        The same model.

    Raises:
        UsageError: arrays are missing, left over or misshapen; all are listed, and the model is as it was.
        RunError: the file is missing or corrupt.
    """
    state = _state(source)
    variables = model_names(model)
    values, complaints = {}, []
    for name, value in state.items():
        value, key = np.asarray(value), translate(name, model.name)
        if name == GAINS_FIRST_STEP:
            # A setting of the solver, which `architecture` reads, and no weight.
            complaints += _no_first_step(model, architecture(model.name, state).get("first_step_size"))
            continue
        if key not in variables or key in values:
            complaints.append(f"left over {name}")
            continue
        if value.dtype.kind not in "fiub" and value.dtype.name != "bfloat16":
            complaints.append(f"no real numbers in {name} ({value.dtype})")
        values[key] = value.transpose(LAYOUTS[value.ndim]) if value.ndim in LAYOUTS else value
        if values[key].shape != tuple(variables[key].shape):
            wanted = _torch_shape(variables[key].shape)
            complaints.append(f"misshapen {name} {value.shape} for {wanted}")
    complaints += [f"missing {torch_name(key, model.name)}" for key in variables if key not in values]
    if complaints:
        raise UsageError(f"the checkpoint does not fit {model.name}: {'; '.join(complaints)}")
    for key, value in values.items():
        variables[key].assign(value)
    return model


def _no_first_step(model: keras.Model, kept: float | None) -> list[str]:
    missing = kept is not None and any(block.first_step_size is None for block in ode_blocks(model))
    return [f"first_step_size is None, the checkpoint's is {kept}"] if missing else []


def _state(source: PathLike | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return cleaned(source) if isinstance(source, Mapping) else read_state(source)


def _torch_shape(shape):
    return tuple(shape[axis] for axis in np.argsort(LAYOUTS[len(shape)]))


def build_from_state(name: str, source: PathLike | Mapping[str, np.ndarray], **options: Any) -> keras.Model:
    """A model of the size that a checkpoint's arrays have, with its weights.

    Args:
        name: one of `tfode_adv.models.available()`.
        source: as for `load_torch_state`.
        **options: what `tfode_adv.models.build` takes. Those given win over the ones inferred by `architecture`.

    Raises:
        UsageError: an unknown name, or arrays that are not that model's.
        RunError: the file is missing or corrupt.
    """
    check_choice("model", name, available())
    state = _state(source)
    model = build(name, **(architecture(name, state) | options))
    return load_torch_state(model, state)
