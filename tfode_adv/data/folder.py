"""A folder of class folders of images, read by TFDS's ImageFolder.

Either PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE, or PATH/CLASS/IMAGE, of which a fifth of
each class, drawn with a fixed seed, is held out as the test split. Hidden files and folders are not looked at.
"""

import pathlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from tfode_adv.errors import UsageError

SUFFIXES, FORMATS = (".jpg", ".jpeg", ".png"), ("JPEG", "PNG")
TEST_SHARE = 0.2
_SEED = 0
_SPLITS = ("train", "test", "validation")
# PIL's modes without a colour: black and white, 8, 16 and 32 bits, with transparency.
_GREY = ("1", "L", "LA", "La", "I", "F")

# The images of each class of each split.
Layout = Mapping[str, Mapping[str, list[pathlib.Path]]]


def folder_builder(path: pathlib.Path) -> Any:
    """The `tfds.ImageFolder` over `path`, with the splits train and test.

    Its `folder` is `path`; `damaged()` is the first of its images that cannot be decoded, with why, or None.

    Raises:
        UsageError: if there is no such folder, no image in it, too few to hold some out, an image that cannot be
            read, or images of several sizes.
    """
    import tensorflow_datasets as tfds

    if not path.is_dir():
        raise UsageError(f"dataset 'folder:{path}': there is no such folder")
    layout = _layout(path)
    shape = _common_shape(path, layout)
    if not any(layout.get("test", layout.get("validation", {})).values()):
        counted = ", ".join(f"{name} ({len(images)})" for name, images in layout["train"].items())
        raise UsageError(f"dataset 'folder:{path}' has too few images to hold some out for the test: {counted}")
    scratch = tempfile.TemporaryDirectory(prefix="tfode_adv-folder-")
    _link(layout, pathlib.Path(scratch.name))
    builder = tfds.ImageFolder(scratch.name, shape=shape)
    # The links must last as long as the builder that reads through them.
    builder.scratch, builder.folder = scratch, path
    builder.damaged = lambda: _damaged(layout)
    return builder


def _layout(path: pathlib.Path) -> Layout:
    if (path / "train").is_dir():
        splits = {split: path / split for split in _SPLITS if (path / split).is_dir()}
        return {split: {one.name: _images(one) for one in _folders(folder)} for split, folder in splits.items()}
    random = np.random.default_rng(_SEED)
    train, test = {}, {}
    for folder in _folders(path):
        images = _images(folder)
        held_out = set(random.permutation(len(images))[: round(TEST_SHARE * len(images))])
        if images:
            train[folder.name] = [image for i, image in enumerate(images) if i not in held_out]
            test[folder.name] = [image for i, image in enumerate(images) if i in held_out]
    return {"train": train, "test": test}


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
    # Of files alone: a pipe would be waited for.
    shown = [file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file()]
    return sorted(file for file in shown if file.suffix.lower() in SUFFIXES)


def _all(layout: Layout) -> Iterator[pathlib.Path]:
    for classes in layout.values():
        for images in classes.values():
            yield from images


def _link(layout: Layout, root: pathlib.Path) -> None:
    """Lays out `root` as SPLIT/CLASS/IMAGE, each image a link."""
    for split, classes in layout.items():
        for name, images in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for image in images:
                (folder / image.name).symlink_to(image.resolve())


def _common_shape(path: pathlib.Path, layout: Layout) -> tuple[int, int, int]:
    """The images' (height, width, channels): 1 channel if all are grey, else 3."""
    first, colour = None, False
    for file in _all(layout):
        size, mode = _header(path, file)
        colour |= mode.partition(";")[0] not in _GREY
        if first is None:
            first = (file, size)
        elif size != first[1]:
            raise UsageError(
                f"dataset 'folder:{path}' has images of several sizes, classifiers need one: "
                f"{str(first[0])!r} is {first[1]}, {str(file)!r} is {size}"
            )
    if first is None:
        raise UsageError(
            f"dataset 'folder:{path}' holds no images: wanted {path}/CLASS/IMAGE or "
            f"{path}/train/CLASS/IMAGE and {path}/test/CLASS/IMAGE ({', '.join(SUFFIXES)})"
        )
    return first[1][1], first[1][0], 3 if colour else 1


def _header(path: pathlib.Path, file: pathlib.Path) -> tuple[tuple[int, int], str]:
    """An image's (width, height) and mode, without decoding it."""
    try:
        with warnings.catch_warnings():
            # What PIL warns of is larger than any classifier's image.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                if image.format not in FORMATS:
                    raise ValueError(f"it is a {image.format}, wanted are {' and '.join(FORMATS)}")
                return image.size, image.mode
    except _UNREADABLE as error:
        raise UsageError(f"dataset 'folder:{path}': {str(file)!r} is not an image ({error})") from error


def _damaged(layout: Layout) -> str | None:
    for file in _all(layout):
        try:
            with Image.open(file) as image:
                image.load()
        except _UNREADABLE as error:
            return f"{str(file)!r} is damaged ({error})"
    return None


_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)
