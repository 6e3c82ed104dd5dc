"""Folders of class folders of images."""

import numpy as np
import pytest
from PIL import Image

from tfode_adv import data
from tfode_adv.errors import UsageError

CLASSES = ("ant", "bee")


def _write(folder, count, *, mode="RGB", size=(12, 10), shade=0):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new(mode, size, (shade, i, 0) if mode == "RGB" else shade + i).save(folder / f"{i}.png")


def test_class_folders_are_split_class_by_class(tmp_path):
    for label, name in enumerate(CLASSES):
        _write(tmp_path / name, 10, shade=100 * label)
    name = f"folder:{tmp_path}"
    info = data.info(name)
    assert info.image_shape == (10, 12, 3) and info.class_names == CLASSES
    assert info.sizes == {"train": 16, "test": 4}
    images, labels = data.arrays(name, "test")
    assert np.bincount(labels).tolist() == [2, 2]
    np.testing.assert_allclose(images[:, 0, 0, 0], labels * np.float32(100 / 255))
    assert not list(tmp_path.glob("train")), "the user's folder is left as it was"


def test_folders_of_splits_are_taken_as_they_are_and_grey_images_have_one_channel(tmp_path):
    for split, count in (("train", 6), ("test", 3)):
        for name in CLASSES:
            _write(tmp_path / split / name, count, mode="L")
    info = data.info(f"folder:{tmp_path}")
    assert info.image_shape == (10, 12, 1) and info.sizes == {"train": 12, "test": 6}


def test_colour_images_can_be_jittered(tmp_path):
    for name in CLASSES:
        _write(tmp_path / name, 10, shade=200)
    name = f"folder:{tmp_path}"
    options = dict(augment="crop+flip+jitter", shuffle=False, batch_size=16, validation=0)
    plain = next(iter(data.load(name, shuffle=False, batch_size=16, validation=0, epoch=0)))[0].numpy()
    first = next(iter(data.load(name, epoch=0, **options)))[0].numpy()
    assert first.shape == plain.shape and first.min() >= 0 and first.max() <= 1
    # A flip and a crop of one-coloured images change nothing but the border: the rest is the jitter.
    middle = np.abs(first - plain)[:, 5, 6]
    assert 0 < middle.max() < 0.35


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda root: None, "holds no images"),
        (lambda root: (_write(root / "a", 2), _write(root / "b", 2, size=(9, 9))), "several sizes"),
        (lambda root: (_write(root / "a", 2), (root / "a" / "x.png").write_text("no")), "x.png"),
    ],
)
def test_a_folder_that_will_not_do_is_named(tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(UsageError, match=words):
        data.info(f"folder:{tmp_path}")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        data.info(f"folder:{tmp_path / 'nowhere'}")
