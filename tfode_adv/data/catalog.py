"""From a data set's name to a TFDS builder whose files are there, or to one line that says why not."""

import contextlib
import dataclasses
import errno
import functools
import os
import pathlib
import re
import socket
import stat
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfode_adv.errors import RunError, UsageError
from tfode_adv.files import PathLike, parse_json, read_json

NAMES = ("mnist_5k", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn_cropped")
FOLDER = "folder:"
AUGMENTATIONS = ("none", "crop+flip", "crop+flip+jitter", "noise")
# TFDS imports the class that a prepared set's description names here, wherever it is.
_FEATURES, _CLASSES = "features.json", ("pythonClassName", "python_class_name", "type", "proto_cls")
_OWN = "tensorflow_datasets."
# The share of the training images that `split="validation"` holds out.
VALIDATION = 0.1
CONNECT_SECONDS = 5.0
PORTS = {"http": 80, "https": 443, "ftp": 21}


def available() -> tuple[str, ...]:
    """The data sets known by name; any other TFDS image classification set and `folder:PATH` work too."""
    return (*NAMES, f"{FOLDER}PATH")


@dataclasses.dataclass(frozen=True)
class Info:
    """What a data set holds.

    Attributes:
        name: as given to `load`.
        image_shape: (height, width, channels).
        class_names: one a class, in the order of the labels.
        sizes: images in TFDS's own splits "train" and "test".
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    sizes: dict[str, int]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def num_examples(self, split: str, validation: float = VALIDATION) -> int:
        """Images in "train", "validation" or "test", with a share `validation` held out of train."""
        held_out = round(validation * self.sizes["train"])
        return {"train": self.sizes["train"] - held_out, "validation": held_out, "test": self.sizes["test"]}[split]


def info(name: str, data_dir: PathLike | None = None, download: bool = True) -> Info:
    """Describes a data set without reading its images, `mnist_5k` without writing them either.

    Raises:
        UsageError: if there is no such data set, or it is not one of labelled images.
        RunError: if its files are not there.
    """
    if name == "mnist_5k":
        from tfode_adv.data import mnist_5k

        classes = tuple(str(digit) for digit in range(mnist_5k.NUM_CLASSES))
        return Info(name, mnist_5k.IMAGE_SHAPE, classes, mnist_5k.SIZES)
    return source(name, data_dir, download).info


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A prepared data set: its TFDS builder, TFDS's names of the splits we call train and test, and of the features
    that are image and label."""

    builder: object
    info: Info
    splits: dict[str, str]
    keys: tuple[str, str]


def source(name: str, data_dir: PathLike | None = None, download: bool = True) -> Source:
    """Finds a data set's files; see `info` for the errors."""
    return _source(name, None if data_dir is None else os.path.abspath(os.path.expanduser(data_dir)), download)


@functools.lru_cache(maxsize=16)
def _source(name: str, data_dir: str | None, download: bool) -> Source:
    if name.startswith(FOLDER):
        from tfode_adv.data.folder import folder_builder

        return _describe(name, folder_builder(pathlib.Path(os.path.expanduser(name.removeprefix(FOLDER)))))
    if name == "mnist_5k":
        return _describe(name, _mnist_5k(data_dir))
    return _describe(name, _prepared(name, data_dir, download))


def _prepared(name: str, data_dir: str | None, download: bool):
    import tensorflow_datasets as tfds

    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or str(tfds.core.constants.DATA_DIR)
    found = _from_files(name, data_dir)
    if found is not None:
        return found
    if name.partition("/")[0].partition(":")[0] not in tfds.list_builders(with_community_datasets=False):
        raise UsageError(
            f"dataset is {name!r}, but must be one of: {', '.join(available())}, "
            "or another image classification set of TFDS"
        )
    missing = f"dataset {name!r} is not prepared: no {name} under {data_dir!r}"
    elsewhere = "name with --data_dir a folder where TFDS has prepared it"
    if not download:
        raise RunError(f"{missing}. Either let --download fetch it, or {elsewhere}")
    builder = tfds.builder(name, data_dir=data_dir)
    host = _out_of_reach(builder.url_infos or ())
    if host:
        raise RunError(f"{missing}, and {host} is out of reach. Either connect, or {elsewhere}")
    try:
        builder.download_and_prepare()
    except Exception as error:
        # Whatever a download may run into is, to the user, one thing: the data set is not there.
        reason = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        raise RunError(f"{missing}, and fetching it failed ({reason}). Try again, or {elsewhere}") from error
    return builder


def _from_files(name: str, data_dir: str):
    """The builder over a data set's files, None where there are none.

    Raises:
        RunError: if they are damaged, or name classes that are not TFDS's own.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    described = sorted(pathlib.Path(data_dir, re.split("[/:]", name)[0]).rglob(_FEATURES))
    for path in described:
        _check_features(path, read_json(path))
    try:
        return builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        return None
    except Exception as error:  # protocol buffers, JSON and TFDS each have their own word for a damaged file
        if not described:
            return None
        reason = str(error).strip().partition("\n")[0]
        raise RunError(f"dataset {name!r} cannot be read from {str(described[0].parent)!r}: {reason}") from error


def _check_features(path: pathlib.Path, values: Any) -> None:
    """Raises RunError where a description names a class for TFDS to import that is none of its features."""
    for name, value in values.items() if isinstance(values, dict) else ():
        if name in _CLASSES and isinstance(value, str) and not value.startswith(_OWN):
            raise RunError(f"{str(path)!r} names {value!r}, which is none of TFDS's features: it is not imported")
        # Of some features the parts are text in text.
        _check_features(path, _parsed(path, value) if name == "json" else value)
    for value in values if isinstance(values, list) else ():
        _check_features(path, value)


def _parsed(path: pathlib.Path, text: Any) -> Any:
    try:
        return parse_json(text) if isinstance(text, str) else text
    except ValueError as error:
        raise RunError(f"{str(path)!r} is corrupt: not JSON ({error})") from error


def _out_of_reach(urls: Iterable[str]) -> str | None:
    """A host, of the proxies or else of `urls`, that no connection reaches: TFDS would try for minutes."""
    parts = [urllib.parse.urlsplit(url) for url in urllib.request.getproxies().values() or urls]
    for host, port in sorted({(part.hostname, part.port or PORTS.get(part.scheme)) for part in parts if part.hostname}):
        try:
            # A name that is not known fails here at once, without the attempts that follow for each address.
            socket.getaddrinfo(host, port)
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
        except OSError:
            return host
    return None


def _mnist_5k(data_dir: str | None):
    from tfode_adv.data import mnist_5k

    failures = []
    for folder in _writable_candidates(data_dir):
        try:
            if folder == _temporary():
                _claim(folder)
            mnist_5k.prepare(folder)
        except OSError as error:
            failures.append(f"{str(folder)!r} ({error.strerror or error})")
            continue
        return _from_files(mnist_5k.NAME, str(folder))
    raise RunError(f"dataset 'mnist_5k' needs a folder to write its files to, tried {', '.join(failures)}")


def _writable_candidates(data_dir: str | None) -> list[pathlib.Path]:
    """Where the sample may be written: the folder asked for, which may be read-only, then caches."""
    asked = [pathlib.Path(data_dir)] if data_dir else []
    # Without a home directory ~ stays as it is: no place to write to.
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    caches = [] if cache.startswith("~") else [pathlib.Path(cache, "tfode_adv")]
    return [*asked, *caches, _temporary()]


def _temporary() -> pathlib.Path:
    return pathlib.Path(tempfile.gettempdir(), f"tfode_adv-{os.getuid()}")


def _claim(folder: pathlib.Path) -> None:
    """Makes a folder where anybody may have made one of that name before.

    Raises:
        OSError: if it is not this user's own, or others may write to it.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "it is not yours alone")


def _describe(name: str, builder) -> Source:
    import tensorflow_datasets as tfds

    sizes = {split: found.num_examples for split, found in builder.info.splits.items()}
    features = builder.info.features
    features = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    keys = tuple(builder.info.supervised_keys or ("image", "label"))[:2]
    image, label = (features.get(key) for key in keys)
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise UsageError(f"dataset {name!r} is not one of labelled images (its features: {list(features)})")
    splits = {"train": "train", "test": "test" if "test" in sizes else "validation"}
    if not set(splits.values()) <= set(sizes):
        raise UsageError(f"dataset {name!r} must have the splits train and test, it has: {', '.join(sizes)}")
    if image.np_dtype != np.uint8:
        raise UsageError(f"dataset {name!r} has images of {np.dtype(image.np_dtype)}, but must have bytes, uint8")
    if None in image.shape:
        raise UsageError(f"dataset {name!r} has images of several sizes; classifiers need one")
    described = Info(
        name=name,
        image_shape=tuple(image.shape),
        class_names=tuple(label.names),
        sizes={ours: sizes[theirs] for ours, theirs in splits.items()},
    )
    return Source(builder, described, splits, keys)
