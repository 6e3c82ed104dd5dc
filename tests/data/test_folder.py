"""Folders of class folders of images."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tfode_adv import data
from tfode_adv.errors import RunError, UsageError

CLASSES = ("ant", "bee")


def _write(folder, count, *, mode="RGB", size=(12, 10), shade=0):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new(mode, size, (shade, i, 0) if mode == "RGB" else shade + i).save(folder / f"{i}.png")


def _bitmap(file):
    Image.new("RGB", (12, 10)).save(file, "BMP")


def _huge(file, side):
    """A square picture whose header, right by its checksum, says so many pixels a side."""
    Image.new("L", (1, 1)).save(file)
    data = bytearray(file.read_bytes())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    file.write_bytes(data)


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
        (lambda root: (_write(root / "a", 5), _bitmap(root / "a" / "x.png")), "x.png' is not an image .it is a BMP"),
        (lambda root: (_write(root / "a", 5), _huge(root / "a" / "x.png", 20_000)), "x.png' is not an image .*pixels"),
        (lambda root: (_write(root / "a", 5), _huge(root / "a" / "x.png", 10_000)), "x.png' is not an image .*pixels"),
        (lambda root: (_write(root / "a", 2), _write(root / "b", 1)), r"too few images .*: a \(2\), b \(1\)"),
    ],
)
def test_a_folder_that_will_not_do_is_named(tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(UsageError, match=words):
        data.info(f"folder:{tmp_path}")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        data.info(f"folder:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize("layout", ["", "train", "both"])
def test_what_is_hidden_is_no_class_and_no_image(tmp_path, layout):
    for split in [""] if not layout else ["train", "test"]:
        for name in (*CLASSES, ".ipynb_checkpoints"):
            _write(tmp_path / split / name, 5)
        (tmp_path / split / "ant" / "._x.png").write_text("no image")
        os.mkfifo(tmp_path / split / "bee" / "pipe.png")
    name = f"folder:{tmp_path}"
    assert data.info(name).class_names == CLASSES
    _, labels = data.arrays(name, "test")
    assert np.bincount(labels).tolist() == ([1, 1] if not layout else [5, 5])


@pytest.mark.parametrize("modes, channels", [(("L", "RGB"), 3), (("L", "LA"), 1), (("L", "I;16"), 1)])
def test_images_are_grey_if_all_are(tmp_path, modes, channels):
    for name, mode in zip(CLASSES, modes, strict=True):
        _write(tmp_path / name, 5, mode="L" if mode == "LA" else mode)
    if modes[1] == "LA":
        for file in (tmp_path / "bee").iterdir():
            Image.new("LA", (12, 10), (7, 255)).save(file)
    name = f"folder:{tmp_path}"
    assert data.info(name).image_shape == (10, 12, channels)
    if channels == 1:
        assert data.arrays(name, "train", validation=0)[0].max() <= 1


def test_a_damaged_image_is_named_by_its_own_path(tmp_path):
    _write(tmp_path / "ant", 5)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)
    file = tmp_path / "ant" / "torn.png"
    Image.fromarray(pixels).save(file)
    file.write_bytes(file.read_bytes()[:-120])
    with pytest.raises(RunError) as error:
        data.arrays(f"folder:{tmp_path}", "train", validation=0)
        data.arrays(f"folder:{tmp_path}", "test")
    assert f"{str(file)!r} is damaged" in str(error.value) and "tfode_adv-folder-" not in str(error.value)
