"""The networks by name: their cards, their weights, and as the run folders that the programs take."""

import hashlib
import io
import json
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from tfode_adv import models
from tfode_adv.errors import RunError, UsageError, check_choice
from tfode_adv.files import PathLike, sha256, write_atomic, write_json
from tfode_adv.keras_internals import own_weights, sublayers
from tfode_adv.models import precision as number_types
from tfode_adv.run_folder import DIGEST, Run

if TYPE_CHECKING:
    import keras

HERE = pathlib.Path(__file__).parent
# What the kernels of a network may be kept in.
STORED = ("float32", "float16")
# By their size in bytes, the types that weights are kept in.
_NUMBERS: dict[int, np.dtype] = {2: np.dtype("<f2"), 4: np.dtype("<f4")}
# Of a run's flags: where things lay on the machine of the training.
_PLACES = ("data_dir", "run_dir")


def available() -> dict[str, str]:
    """The networks' names, such as `"msml2022/cifar10_resnet10"`, to one line about each."""
    return {name: _read(name)["summary"] for name in _names()}


def card(name: str) -> dict[str, Any]:
    """What is known of a network.

    Args:
        name: one of `available()`.

    Returns:
        "summary"; "config": what the `config.json` of its training holds, with flags, data set, model and versions;
        "options": what `models.build` makes it with;
        "command": how it was trained; "data": a line about the images; "test": "command" and "error", of the test
        images "count" wrong of "total", with "low" and "high", the 95 % interval; "diagnosis": what `bin/diagnose`
        found, or None; "predictions": the classes it told of some test images, each by its `image_key`;
        "sha256": that of the weights; "precision": what the layers compute in, where that is not what they did in
        training; "license": where they are another's, the text they come with, else not there.

    Raises:
        UsageError: for a name that is not there; the message names the choices.
    """
    return _read(check_choice("network", name, _names()))


def load(name: str) -> "keras.Model":
    """A network: NHWC images in [0, 1] to logits.

    Args:
        name: one of `available()`.

    Raises:
        UsageError: for a name that is not there; the message names the choices.
        RunError: if the weights are not those that the card tells of.
    """
    known = card(name)
    path = HERE / f"{name}.npz"
    if not path.is_file() or sha256(path) != known["sha256"]:
        raise RunError(f"{str(path)!r} is missing or is not the file that the network's card tells of: reinstall")
    with np.load(path, allow_pickle=False) as file:
        return _built(known, [unpacked(file[str(place)]) for place in range(len(file.files))])


def _built(known: dict[str, Any], weights: list[np.ndarray]) -> "keras.Model":
    """The model that a card tells of, computing in the type of its training unless the card names another."""
    config = known["config"]
    with number_types.precision(known.get("precision") or config["flags"].get("mixed_precision") or "none"):
        model = models.build(config["model"]["name"], **known["options"])
    model.set_weights(weights)
    return model


def as_run(name: str, root: PathLike = "runs") -> Run:
    """A network as a finished run, `ROOT/zoo/NAME`, which is made if it is not there.

    Args:
        name: one of `available()`.
        root: the folder of all runs.

    Raises:
        UsageError: for a name that is not there; the message names the choices.
        RunError: if the folder cannot be written, or holds something else.
    """
    known, path = card(name), pathlib.Path(root) / "zoo" / name
    mark = {"name": name, "sha256": known["sha256"]}
    if not path.exists():
        _make(known["config"] | {"zoo": mark}, load(name), path)
    run = Run.open(path)
    if run.config.get("zoo") != mark or not run.finished or run.swapped:
        raise RunError(f"{str(path)!r} holds something else than the network {name!r}: move it away")
    return run


def _make(config: dict[str, Any], model: "keras.Model", path: pathlib.Path) -> None:
    """Writes the run aside and renames it, so that of several processes that want it one makes it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as aside:
            run = Run.create(pathlib.Path(aside) / path.name, config)
            run.finish(model)
            if not path.exists():
                run.path.rename(path)
    except OSError as error:
        if not path.exists():
            raise RunError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def add(
    run: PathLike,
    name: str,
    measured: dict[str, Any],
    root: PathLike = HERE,
    precision: str | None = None,
    stored: str = "float32",
) -> None:
    """Takes a finished run's network into the zoo.

    Kernels of layers that compute in half precision are rounded to it, which changes nothing that they compute.

    Args:
        run: the run folder.
        name: what it will be called, `PAPER/NAME`.
        measured: the parts of its card that are not in the run: "summary", "command", "data", "test", "diagnosis",
            "predictions".
        root: where the zoo lies.
        precision: what its layers compute in, "none" for float32 throughout; None: what they did in training.
        stored: "float32", or "float16": kernels are rounded to that and take half the room.

    Raises:
        RunError: if the run is not finished, or the zoo cannot be written.
        UsageError: for a kernel that float16 cannot hold.
    """
    known, model = _candidate(run, precision, stored)
    path = pathlib.Path(root) / f"{name}.npz"
    write_atomic(path, _file_of(model.get_weights(), stored))
    write_json(path.with_suffix(".json"), {**measured, **known, "sha256": sha256(path)})


def candidate(run: PathLike, precision: str | None = None, stored: str = "float32") -> "keras.Model":
    """The model that `add` would take in, to be measured.

    Args:
        precision, stored: as for `add`.

    Raises:
        UsageError: for a kernel that float16 cannot hold.
    """
    return _candidate(run, precision, stored)[1]


def _candidate(run: PathLike, precision: str | None, stored: str) -> tuple[dict[str, Any], "keras.Model"]:
    """What a card tells of a run by itself, and the model that it tells of."""
    check_choice("stored", stored, STORED)
    trained = Run.open(run)
    model = trained.load_model()
    known = _known(trained, model, precision)
    built = _built(known, model.get_weights())
    for layer in sublayers(built, include_self=True):
        for kernel in filter(_is_kernel, own_weights(layer)):
            kernel.assign(_rounded(kernel, layer.compute_dtype if stored == "float32" else stored))
    return known, built


def _rounded(kernel: "keras.Variable", to: str) -> np.ndarray:
    """A kernel's value as another number type holds it."""
    import keras

    value = keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.cast(kernel, to), kernel.dtype))
    if not np.isfinite(value).all():
        raise UsageError(f"{kernel.path} has values up to {np.abs(kernel.numpy()).max():g}, which {to} cannot hold")
    return value


def _is_kernel(weight: "keras.Variable | np.ndarray") -> bool:
    """Whether these are most of a layer's numbers, and not a bias or a norm's scale."""
    return len(weight.shape) >= 2


def _file_of(weights: list[np.ndarray], stored: str) -> bytes:
    file = io.BytesIO()
    kept = [value.astype(stored) if _is_kernel(value) else value for value in weights]
    np.savez_compressed(file, **{str(place): packed(value) for place, value in enumerate(kept)})
    return file.getvalue()


def packed(weight: np.ndarray) -> np.ndarray:
    """A weight `[...]` as bytes `[2 or 4, ...]`, uint8, those of equal place in a number side by side.

    Signs and exponents of a network's weights are much alike, so that a file of them takes an eighth less room.

    Raises:
        UsageError: for a weight that is neither float16 nor float32.
    """
    if weight.dtype not in _NUMBERS.values():
        raise UsageError(f"a weight is of type {weight.dtype.name}, but the zoo keeps float16 and float32")
    return np.moveaxis(np.array(weight, order="C")[..., np.newaxis].view(np.uint8), -1, 0)


def unpacked(planes: np.ndarray) -> np.ndarray:
    """The inverse of `packed`."""
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1)).view(_NUMBERS[len(planes)])[..., 0]


def _known(trained: Run, model: "keras.Model", precision: str | None) -> dict[str, Any]:
    known = {"options": _options(trained.config, model), "config": _portable(trained.config)}
    return known | ({} if precision is None else {"precision": precision})


def _options(config: dict[str, Any], model: "keras.Model") -> dict[str, Any]:
    """The arguments of `models.build`: those of the training, and what it read off its data."""
    import keras

    given = {name: value for name, value in config["model"]["kwargs"].items() if value is not None}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            deviation = np.sqrt(np.ravel(layer.input_variance))
            given["normalization"] = [np.ravel(layer.input_mean).tolist(), deviation.tolist()]
    return given | {"input_shape": list(model.input_shape[1:]), "num_classes": model.output_shape[-1]}


def _portable(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config without the places of its machine and without the checksum of its own file."""
    kept = {name: value for name, value in config.items() if name != DIGEST}
    kept["flags"] = {name: value for name, value in config["flags"].items() if name not in _PLACES}
    kept["dataset"] = {name: value for name, value in config["dataset"].items() if name not in _PLACES}
    return kept


def image_key(image: np.ndarray) -> str:
    """What a card calls an image, uint8 `[H, W, C]`: the first 16 digits of its bytes' SHA-256."""
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


def _names() -> list[str]:
    return sorted(path.relative_to(HERE).with_suffix("").as_posix() for path in HERE.glob("*/*.json"))


def _read(name: str) -> dict[str, Any]:
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
