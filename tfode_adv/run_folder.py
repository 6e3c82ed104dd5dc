"""Run folders: what one training leaves behind, and where everything else starts from."""

import importlib.metadata
import json
import pathlib
import platform
import shutil
import subprocess
import tempfile
import zipfile
from typing import Any

from tfode_adv.errors import RunError
from tfode_adv.files import PathLike, read_json, sha256, write_json

CONFIG, MODEL, METRICS = "config.json", "model.keras", "metrics.csv"
DIGEST = "model_sha256"
# What a config's values are, where they are there and not null.
_KINDS = {
    "flags": dict,
    "model": {"name": str, "kwargs": dict},
    "dataset": {"name": str, "data_dir": str, "validation": (int, float), "classes": list},
    "versions": dict,
    "seed": int,
    "git_revision": str,
    "resumed": list,
    DIGEST: str,
}
_PACKAGES = ("tfode_adv", "tensorflow", "tensorflow-cpu", "keras", "tensorflow-probability", "numpy")


class Run:
    """A run folder.

    Attributes:
        path: the folder.
        config: its `config.json`: `{"flags": {...}, "model": {"name", "kwargs"}, "dataset": {...},
            "versions": {...}, "seed": int, "git_revision": str | None}`. A training that went on with other
            flags, versions or another revision has these, and what they replaced under "resumed": a list
            of parts of an earlier config, the oldest first. A finished run's also has "model_sha256", that of
            its `model.keras`.
    """

    def __init__(self, path: PathLike, config: dict[str, Any]):
        self.path, self.config = pathlib.Path(path), config

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def model_path(self) -> pathlib.Path:
        """The trained model; it is there once the run is finished."""
        return self.path / MODEL

    @property
    def finished(self) -> bool:
        return self.model_path.is_file()

    @classmethod
    def create(cls, path: PathLike, config: dict[str, Any], overwrite: bool = False) -> "Run":
        """Makes the folder and writes its `config.json`, with the versions and the git revision added.

        Raises:
            RunError: if the folder holds anything and `overwrite` is False, if it holds something that
                is not a run (never deleted), or if it cannot be written.
        """
        path = pathlib.Path(path)
        replaces = cls.replaces(path, overwrite)
        try:
            if replaces:
                # Renamed before it is deleted: half a run would be refused by the next --overwrite.
                aside = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
                shutil.rmtree(path.rename(aside / path.name).parent)
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
        config = {"versions": versions(), "git_revision": git_revision(), **config}
        write_json(path / CONFIG, config)
        return cls(path, config)

    @staticmethod
    def replaces(path: PathLike, overwrite: bool = False) -> bool:
        """Whether `create` would delete a run to make this folder; nothing is touched.

        Raises:
            RunError: where `create` would refuse.
        """
        path = pathlib.Path(path)
        try:
            occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
        except OSError as error:
            raise RunError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
        if occupied and not overwrite:
            raise RunError(f"{str(path)!r} already exists and is not empty; --overwrite replaces it")
        if occupied and not (path / CONFIG).is_file():
            raise RunError(f"{str(path)!r} holds no {CONFIG}: it is no run, and --overwrite leaves it alone")
        return occupied

    @classmethod
    def open(cls, path: PathLike) -> "Run":
        """Opens the folder of a run, finished or not.

        Raises:
            RunError: if its `config.json` is missing or corrupt; the message names the file.
        """
        path = pathlib.Path(path)
        config = read_json(path / CONFIG)
        if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
            raise RunError(f"{str(path / CONFIG)!r} is corrupt: it describes no model")
        _check_kinds(path / CONFIG, "", config, _KINDS)
        return cls(path, config)

    def bind(self, digest: str) -> None:
        """Records the SHA-256 of the `model.keras` that is this run's; no other will pass for it.

        Raises:
            RunError: if the folder cannot be written.
        """
        self.config = {**self.config, DIGEST: digest}
        write_json(self.path / CONFIG, self.config)

    def finish(self, model: Any) -> None:
        """Writes a Keras model as this run's `model.keras`, and binds it.

        Raises:
            RunError: if the folder cannot be written.
        """
        aside = self.model_path.with_name("writing.keras")
        try:
            model.save(aside)
            self.bind(sha256(aside))
            aside.replace(self.model_path)
        except OSError as error:
            raise RunError(f"cannot write {str(self.model_path)!r}: {error.strerror or error}") from error

    @property
    def swapped(self) -> bool:
        """Whether `model.keras` is there, but is not the one that this run made."""
        return self.finished and self.config.get(DIGEST, own := sha256(self.model_path)) != own

    def resume(self, config: dict[str, Any]) -> None:
        """Takes over what a `config` like that of `create` says, and writes it with what it replaced.

        Raises:
            RunError: if the folder cannot be written.
        """
        config = {"versions": versions(), "git_revision": git_revision(), **config}
        # As it will be read, where a tuple is a list.
        config = json.loads(json.dumps(config))
        replaced = _replaced({part: value for part, value in self.config.items() if part in config}, config)
        if replaced:
            config["resumed"] = [*self.config.get("resumed", []), replaced]
        self.config = {**self.config, **config}
        write_json(self.path / CONFIG, self.config)

    @property
    def dataset(self) -> str:
        """Name of the data set that the run was trained on.

        Raises:
            RunError: if the run names none.
        """
        recorded = self.config.get("dataset")
        if not isinstance(recorded, dict) or not recorded.get("name"):
            raise RunError(f"{str(self.path / CONFIG)!r} names no data set: give one with --dataset")
        return recorded["name"]

    def data_options(self, dataset: str, data_dir: PathLike | None = None) -> dict[str, Any]:
        """Where `dataset` lies, `data_dir` if given, and what is held out of it: for one's own, as in the training."""
        recorded = self.config.get("dataset")
        options = {}
        if isinstance(recorded, dict) and recorded.get("name") == dataset:
            options = {name: recorded[name] for name in ("data_dir", "validation") if recorded.get(name) is not None}
        return options | ({"data_dir": data_dir} if data_dir else {})

    @classmethod
    def newest(cls, root: PathLike = "runs") -> "Run":
        """The run under `root` that was finished last.

        Raises:
            RunError: if there is none.
        """
        models = [m for m in pathlib.Path(root).rglob(MODEL) if (m.parent / CONFIG).is_file()]
        if not models:
            raise RunError(f"no finished run under {str(root)!r}: train one with bin/train, or name one with --run")
        return cls.open(max(models, key=lambda m: m.stat().st_mtime_ns).parent)

    def load_model(self) -> Any:
        """The run's Keras model: NHWC images in [0, 1] to logits.

        Raises:
            RunError: if the run is not finished, or the file is corrupt or not the one that the run made; the message
                names the file.
        """
        if not self.finished:
            raise RunError(f"{str(self.model_path)!r} is missing: this run is not finished")
        # Keras takes a file that is no archive for one that is not there.
        if not zipfile.is_zipfile(self.model_path):
            size = self.model_path.stat().st_size
            raise RunError(f"{str(self.model_path)!r} cannot be loaded: its {size} bytes are no Keras archive")
        if self.swapped:
            raise RunError(
                f"{str(self.model_path)!r} cannot be loaded: it is not the model that this run made, whose SHA-256 "
                f"{CONFIG} has as {DIGEST}"
            )
        import keras

        try:
            return keras.models.load_model(self.model_path, compile=False)
        except Exception as error:  # a damaged archive or a shape beyond all bounds meets a dozen kinds
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise RunError(f"{str(self.model_path)!r} cannot be loaded: {reason}") from error


def _check_kinds(path: pathlib.Path, within: str, values: dict[str, Any], kinds: dict[str, Any]) -> None:
    """Raises RunError for a value that is there, but not of its kind: a type, several, or those of its parts."""
    for name, kind in kinds.items():
        value, full = values.get(name), f"{within}{name}"
        wanted = dict if isinstance(kind, dict) else kind
        if value is not None and (not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool)):
            raise RunError(f"{str(path)!r} is corrupt: {full} is {value!r}")
        if isinstance(kind, dict) and value is not None:
            _check_kinds(path, f"{full}.", value, kind)


def _replaced(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The values of `before` that `now` has otherwise or not at all; of dictionaries, theirs."""
    found = {}
    for name, old in before.items():
        new = now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            old, new = _replaced(old, new), {}
        if old != new:
            found[name] = old
    return found


def versions() -> dict[str, str]:
    """The versions that a result depends on, by distribution name, Python's included."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """The commit of the checkout that this package runs from, `-dirty` if changed; None outside one."""
    root = pathlib.Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
