"""Reading the arrays of a PyTorch checkpoint, without ever unpickling code."""

import pathlib
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfode_adv.errors import RunError, UsageError
from tfode_adv.files import PathLike

FORMATS = (".npz", ".pt", ".pth", ".pth.tar")
WRAPPERS = ("model", "net", "state_dict")
# Counters that PyTorch keeps beside batch normalisation's moments; nothing here has use for them.
IGNORED = "num_batches_tracked"


def read_state(path: PathLike) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint under PyTorch's own names and in its layouts.

    A `.npz` holds them as `state/NAME` (other entries are left aside) or as bare `NAME`. A `.pt`, `.pth` or
    `.pth.tar` is a state dict, bare or inside `{"model": ...}`, `{"net": ...}` or `{"state_dict": ...}`; it is read
    with `torch.load(weights_only=True)`, which needs the `torch` extra. A `module.` in front of every name
    (`DataParallel`'s) is dropped, and `num_batches_tracked` is ignored.

    Raises:
        UsageError: another kind of file, or PyTorch is missing.
        RunError: the file is missing, corrupt, or holds no arrays.
    """
    path = pathlib.Path(path)
    if not path.name.endswith(FORMATS):
        raise UsageError(f"checkpoint is {str(path)!r}, but must end in one of: {', '.join(FORMATS)}")
    if not path.is_file():
        raise RunError(f"{str(path)!r} is missing: no checkpoint to read")
    state = _read_npz(path) if path.suffix == ".npz" else _read_torch(path)
    state = cleaned(state)
    if not state:
        raise RunError(f"{str(path)!r} holds no arrays")
    return state


def cleaned(state: Mapping[str, Any]) -> dict[str, Any]:
    """`state` less what PyTorch's wrappers add: `num_batches_tracked`, and a `module.` before every name."""
    state = {name: value for name, value in state.items() if not name.endswith(IGNORED)}
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _read_npz(path):
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array without a name")
        with archive:
            marked = {name.removeprefix("state/") for name in archive.files if name.startswith("state/")}
            if marked:
                return {name: archive[f"state/{name}"] for name in sorted(marked)}
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"{str(path)!r} is corrupt: {_first_line(error)}") from error


def _read_torch(path):
    try:
        import torch
    except ImportError:
        raise UsageError(
            f"reading {str(path)!r} needs PyTorch: install tfode_adv with its extra torch, or give an .npz"
        ) from None
    try:
        with torch.serialization.safe_globals(_numbers()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its readers raise: pickle's, zip's, its own
        raise RunError(f"{str(path)!r} is no checkpoint of plain tensors: {_refusal(error)}") from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise RunError(f"{str(path)!r} holds a {type(content).__name__}, not a state dict")
    strangers = sorted(str(name) for name, value in content.items() if not isinstance(value, torch.Tensor))
    if strangers:
        raise RunError(f"{str(path)!r} holds no tensor under: {', '.join(strangers)}")
    try:
        return {str(name): value.detach().cpu().float().numpy() for name, value in content.items()}
    except (RuntimeError, TypeError) as error:  # sparse, quantised and meta tensors
        raise RunError(f"{str(path)!r} holds a tensor that is no plain array: {_first_line(error)}") from error


def _numbers():
    """What NumPy's numbers are pickled as, the best epoch's accuracy beside the weights: they run no code."""
    scalar = np.float64(0).__reduce__()[0]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [
        *names,
        np.dtype,
        *{type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"},
    ]


def _refusal(error):
    """Why PyTorch did not read a file. What it says itself advises to run the code in it."""
    if type(error).__name__ != "UnpicklingError":
        return _first_line(error)
    other = re.search(r"GLOBAL (\S+)", str(error))
    return f"it holds a {other[1]}, which is not loaded" if other else "it is damaged, or another program's"


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
