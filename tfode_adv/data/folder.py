"""A folder of class folders of images, read by TFDS's ImageFolder.

Either PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE, or PATH/CLASS/IMAGE, of which a fifth of
each class, drawn with a fixed seed, is held out as the test split.
"""

import pathlib
import tempfile
from typing import Any

import numpy as np
from PIL import Image

from tfode_adv.errors import UsageError

SUFFIXES = (".jpg", ".jpeg", ".png")
TEST_SHARE = 0.2
_SEED = 0


def folder_builder(path: pathlib.Path) -> Any:
    """The `tfds.ImageFolder` over `path`, with the splits train and test.

    Raises:
        UsageError: if there is no such folder, no image in it, an image that cannot be read, or images
            of several sizes.
    """
    import tensorflow_datasets as tfds

    if not path.is_dir():
        raise UsageError(f"dataset 'folder:{path}': there is no such folder")
    scratch = None
    root = path
    if not (path / "train").is_dir():
        scratch = tempfile.TemporaryDirectory(prefix="tfode_adv-folder-")
        root = _link_splits(path, pathlib.Path(scratch.name))
    builder = tfds.ImageFolder(str(root), shape=_common_shape(path, root))
    # The links must last as long as the builder that reads through them.
    builder.scratch = scratch
    return builder


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def _link_splits(path: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    """Lays out `root` as train/CLASS/IMAGE and test/CLASS/IMAGE, each a link into `path`."""
    random = np.random.default_rng(_SEED)
    for class_folder in sorted(folder for folder in path.iterdir() if folder.is_dir()):
        images = _images(class_folder)
        test = set(random.permutation(len(images))[: round(TEST_SHARE * len(images))])
        for i, image in enumerate(images):
            link = root / ("test" if i in test else "train") / class_folder.name / image.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(image.resolve())
    return root


def _common_shape(path: pathlib.Path, root: pathlib.Path) -> tuple[int, int, int]:
    """The images' (height, width, channels): 1 channel if the first is grey, else 3."""
    first, shape = None, None
    for file in (file for folder in sorted(root.glob("*/*/")) for file in _images(folder)):
        try:
            with Image.open(file) as image:
                size, grey = image.size, image.mode in ("1", "L")
        except OSError as error:
            raise UsageError(f"dataset 'folder:{path}': {str(file)!r} is not an image ({error})") from error
        if first is None:
            first, shape = (file, size), (size[1], size[0], 1 if grey else 3)
        elif size != first[1]:
            raise UsageError(
                f"dataset 'folder:{path}' has images of several sizes, classifiers need one: "
                f"{str(first[0])!r} is {first[1]}, {str(file)!r} is {size}"
            )
    if shape is None:
        raise UsageError(
            f"dataset 'folder:{path}' holds no images: wanted {path}/CLASS/IMAGE or "
            f"{path}/train/CLASS/IMAGE and {path}/test/CLASS/IMAGE ({', '.join(SUFFIXES)})"
        )
    return shape
