"""Splits, order and augmentation of the pipelines, on the sample that ships with the dependencies."""

import concurrent.futures
import json
import os
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tfode_adv import data
from tfode_adv.data import catalog, mnist_5k, pipeline
from tfode_adv.errors import RunError, UsageError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def load(data_dir):
    return lambda *args, **kwargs: data.load("mnist_5k", *args, data_dir=data_dir, **kwargs)


def _collect(dataset):
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _as_set(images):
    return {image.tobytes() for image in images}


def test_the_sample_is_stratified_and_its_splits_are_disjoint(data_dir):
    train, train_labels = data.arrays("mnist_5k", "train", data_dir=data_dir, validation=0)
    test, test_labels = data.arrays("mnist_5k", "test", data_dir=data_dir)
    assert train.shape == (4000, 28, 28, 1) and test.shape == (1000, 28, 28, 1)
    assert train.dtype == np.float32 and test_labels.dtype == np.int64
    assert train.min() == 0.0 and train.max() == 1.0
    assert np.bincount(train_labels).tolist() == [400] * 10
    assert np.bincount(test_labels).tolist() == [100] * 10
    assert not _as_set(train) & _as_set(test)


def test_it_is_a_tfds_data_set_like_any_other(data_dir):
    catalog.source("mnist_5k", data_dir)
    dataset, info = tfds.load("mnist_5k", split="test", data_dir=data_dir, with_info=True)
    assert info.splits["train"].num_examples == 4000 and len(dataset) == 1000


def test_validation_is_held_out_of_train(data_dir):
    parts = [data.arrays("mnist_5k", split, data_dir=data_dir)[0] for split in ("train", "validation")]
    whole = data.arrays("mnist_5k", "train", data_dir=data_dir, validation=0)[0]
    assert [len(part) for part in parts] == [3600, 400]
    assert _as_set(parts[0]) | _as_set(parts[1]) == _as_set(whole)
    other = data.arrays("mnist_5k", "validation", data_dir=data_dir, split_seed=1)[0]
    assert _as_set(other) != _as_set(parts[1])


def test_info_knows_the_sizes(data_dir, tmp_path):
    info = data.info("mnist_5k", tmp_path)
    assert not list(tmp_path.iterdir()), "the sample takes seconds to write"
    assert info == catalog.source("mnist_5k", data_dir).info
    assert info.image_shape == (28, 28, 1) and info.num_classes == 10
    assert [info.num_examples(split) for split in ("train", "validation", "test")] == [3600, 400, 1000]


def test_arrays_and_load_agree_on_the_test_split(load, data_dir):
    images, labels = data.arrays("mnist_5k", "test", 150, data_dir)
    theirs, their_labels = _collect(load("test", batch_size=64, num_examples=150))
    np.testing.assert_array_equal(images, theirs)
    np.testing.assert_array_equal(labels, their_labels)


def test_an_epoch_is_a_function_of_seed_and_number(load):
    def order(**kwargs):
        return _collect(load("train", num_examples=50, batch_size=16, **kwargs))[0]

    first = order(seed=1, epoch=3)
    np.testing.assert_array_equal(first, order(seed=1, epoch=3))
    assert not np.array_equal(first, order(seed=1, epoch=4))
    assert not np.array_equal(first, order(seed=2, epoch=3))
    assert _as_set(first) == _as_set(order(seed=2, epoch=4))


def test_a_run_may_go_on_in_the_middle_of_an_epoch(load):
    options = dict(num_examples=50, batch_size=16, augment="crop+flip", seed=5, repeat=True)
    whole = [batch for batch, _ in load("train", epoch=0, **options).take(12).as_numpy_iterator()]
    resumed = [batch for batch, _ in load("train", epoch=1, step=2, **options).take(6).as_numpy_iterator()]
    assert [len(batch) for batch in whole[:4]] == [16, 16, 16, 2]
    for ours, theirs in zip(resumed, whole[6:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_without_an_epoch_each_iteration_has_its_own_order(load):
    dataset = load("train", num_examples=50, batch_size=50)
    first, second = _collect(dataset)[0], _collect(dataset)[0]
    assert not np.array_equal(first, second) and _as_set(first) == _as_set(second)
    again = load("train", num_examples=50, batch_size=50)
    np.testing.assert_array_equal(first, _collect(again)[0])
    np.testing.assert_array_equal(second, _collect(again)[0])


def test_a_last_small_batch_can_be_left_out(load):
    sizes = [len(y) for _, y in load("test", num_examples=50, batch_size=16, drop_remainder=True)]
    assert sizes == [16, 16, 16]


@pytest.mark.parametrize("options", [{}, {"epoch": 1, "step": 2}, {"drop_remainder": True}])
def test_the_number_of_batches_is_known(load, options):
    batches = load(batch_size=32, **options)
    assert int(batches.cardinality()) == len(list(batches)) > 0
    assert load(epoch=0, repeat=True).cardinality() == tf.data.INFINITE_CARDINALITY


def test_augmentation_differs_from_epoch_to_epoch_and_not_within_one(load):
    options = dict(num_examples=20, batch_size=20, shuffle=False, augment="crop+flip")
    first = _collect(load("train", epoch=0, **options))[0]
    np.testing.assert_array_equal(first, _collect(load("train", epoch=0, **options))[0])
    assert not np.array_equal(first, _collect(load("train", epoch=1, **options))[0])


def test_noise_falls_on_half_the_images_and_leaves_them_in_range(load):
    options = dict(num_examples=200, batch_size=200, shuffle=False, epoch=0)
    plain, noisy = (_collect(load("train", augment=augment, **options))[0] for augment in ("none", "noise"))
    changed = (plain != noisy).any(axis=(1, 2, 3))
    assert 70 < changed.sum() < 130 and noisy.min() >= 0 and noisy.max() <= 1
    # Where a clip takes off no half: pixels of mid grey.
    grey = (plain > 0.45) & (plain < 0.55) & changed[:, None, None, None]
    assert 50 / 255 < (noisy - plain)[grey].std() < 100 / 255


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(split="valid"), ["valid", "train", "validation", "test"]),
        (dict(batch_size=0), ["batch_size", "0"]),
        (dict(augment="blur"), ["blur", "crop+flip+jitter"]),
        (dict(augment="crop+flip+jitter"), ["jitter", "3 channels"]),
        (dict(validation=1.0), ["validation", "1.0"]),
        (dict(split="validation", validation=0), ["validation", "empty"]),
        (dict(split="test", num_examples=1001), ["1001", "1000"]),
        (dict(step=2), ["step", "epoch"]),
    ],
)
def test_a_mistake_is_named_in_one_line(load, arguments, words):
    with pytest.raises(UsageError) as error:
        load(**arguments)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match="'mnits'.*mnist_5k.*cifar10.*folder:PATH"):
        data.info("mnits", tmp_path)


def test_a_set_that_is_not_prepared_says_where_it_was_looked_for_and_the_two_ways_out(tmp_path):
    with pytest.raises(RunError) as error:
        data.load("cifar100", data_dir=tmp_path, download=False)
    line = str(error.value)
    assert "\n" not in line and "cifar100" in line and str(tmp_path) in line
    assert "--download" in line and "--data_dir" in line


def test_a_download_without_a_network_fails_at_once(tmp_path, monkeypatch):
    def no_network(*args):
        raise OSError("no network")

    monkeypatch.setattr(catalog.socket, "getaddrinfo", no_network)
    monkeypatch.setattr(catalog.urllib.request, "getproxies", dict)
    with pytest.raises(RunError, match="cifar100.*toronto.*out of reach.*--data_dir"):
        data.info("cifar100", tmp_path)


def test_a_read_only_folder_does_not_keep_the_sample_from_being_written(tmp_path, monkeypatch):
    asked, cache = tmp_path / "asked", tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    asked.write_text("a file, so that no folder can be made of it")
    assert len(data.arrays("mnist_5k", "test", 3, asked)[1]) == 3
    assert (cache / "tfode_adv" / "mnist_5k").is_dir()


def test_preparing_twice_at_once_leaves_one_set(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(mnist_5k.prepare, [tmp_path, tmp_path]))
    assert [path.name for path in tmp_path.iterdir()] == ["mnist_5k"]
    assert len(data.arrays("mnist_5k", "test", data_dir=tmp_path)[1]) == 1000


def test_a_set_too_large_for_memory_is_refused(load, monkeypatch):
    monkeypatch.setattr(pipeline, "MEMORY_LIMIT", 1000)
    pipeline._read.cache_clear()
    with pytest.raises(RunError, match="too large.*memory"):
        load("test")


def _prepare_small(data_dir, name, features, keys, sizes):
    """Writes a TFDS data set of random images under a name of our choice."""
    named, splits, random = name, sizes, np.random.default_rng(0)

    class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = named
        VERSION = tfds.core.Version("3.0.2")

        def _info(self):
            described = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=described, supervised_keys=keys)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(count) for split, count in splits.items()}

        def _generate_examples(self, count):
            for i in range(count):
                image = random.integers(0, 256, (8, 8, 3), getattr(features.get(keys[0]), "np_dtype", np.uint8))
                yield i, {keys[0]: image, keys[1]: i % 3}

    Small(data_dir=data_dir).download_and_prepare()


def test_a_prepared_tfds_set_is_found_by_name(tmp_path):
    features = {
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    _prepare_small(tmp_path, "cifar10", features, ("image", "label"), {"train": 20, "test": 10})
    info = data.info("cifar10", tmp_path)
    assert info.image_shape == (8, 8, 3) and info.num_classes == 3
    assert info.sizes == {"train": 20, "test": 10}
    images, labels = data.arrays("cifar10", "test", 5, tmp_path)
    assert images.shape == (5, 8, 8, 3) and set(labels) <= {0, 1, 2}


def test_a_validation_split_of_tfds_stands_in_for_a_missing_test_split(tmp_path):
    features = {
        "photo": tfds.features.Image(shape=(8, 8, 3)),
        "kind": tfds.features.ClassLabel(num_classes=3),
    }
    _prepare_small(tmp_path, "food101", features, ("photo", "kind"), {"train": 20, "validation": 10})
    assert len(data.arrays("food101", "test", data_dir=tmp_path)[1]) == 10


def test_a_set_that_names_no_supervised_pair_is_read_by_the_usual_names():
    images, labels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8), np.arange(4) % 3
    features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
    size = types.SimpleNamespace(num_examples=4)
    info = types.SimpleNamespace(
        splits={"train": size, "test": size}, features=tfds.features.FeaturesDict(features), supervised_keys=None
    )
    examples = tf.data.Dataset.from_tensor_slices({"id": labels, "image": images, "label": labels})
    builder = types.SimpleNamespace(info=info, as_dataset=lambda **options: examples)
    ours, theirs = pipeline._read(catalog._describe("cifar10_n", builder), "test")
    np.testing.assert_array_equal(ours, images)
    np.testing.assert_array_equal(theirs, labels)


@pytest.mark.parametrize(
    "features, sizes, words",
    [
        (
            {"label": tfds.features.Tensor(shape=(), dtype=np.int64)},
            {"train": 5, "test": 5},
            "labelled images",
        ),
        ({"label": tfds.features.ClassLabel(num_classes=3)}, {"train": 5}, "splits train and test"),
        ({"image": tfds.features.Image(shape=(None, None, 3))}, {"train": 5, "test": 5}, "several sizes"),
        ({"image": tfds.features.Image(shape=(8, 8, 3), dtype=np.uint16)}, {"train": 5, "test": 5}, "of uint16"),
    ],
)
def test_a_set_that_will_not_do_is_refused(tmp_path, features, sizes, words):
    usual = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
    _prepare_small(tmp_path, "mnist", usual | features, ("image", "label"), sizes)
    with pytest.raises(UsageError, match=words):
        data.info("mnist", tmp_path)


def test_a_folder_under_the_temporary_one_is_used_only_if_it_is_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = catalog._temporary()
    catalog._claim(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    catalog._claim(folder)
    folder.chmod(0o777)
    with pytest.raises(PermissionError):
        catalog._claim(folder)
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        catalog._claim(folder)


def test_nothing_is_written_where_others_may_write_too(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "file").write_text("a file, so that no folder can be made of it")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    catalog._temporary().mkdir()
    catalog._temporary().chmod(0o777)
    with pytest.raises(RunError, match="needs a folder to write its files to.*not yours alone"):
        data.arrays("mnist_5k", "test", 3, tmp_path / "file")
    assert not list(catalog._temporary().iterdir())


def test_without_a_home_directory_there_is_one_place_less(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert catalog._writable_candidates(None) == [catalog._temporary()]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    mnist_5k.prepare(folder)
    return folder


@pytest.fixture
def prepared(untouched, tmp_path):
    """The sample as any prepared set of TFDS, to be damaged, and its description."""
    shutil.copytree(untouched, tmp_path, dirs_exist_ok=True)
    (path,) = tmp_path.rglob("features.json")
    return tmp_path, path


@pytest.mark.parametrize("nested", [False, True])
def test_a_description_that_names_another_module_imports_nothing(prepared, tmp_path, monkeypatch, nested):
    folder, path = prepared
    (tmp_path / "evil_feature.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = path.read_text().replace("tensorflow_datasets.core.features.image_feature.Image", "evil_feature.Image")
    assert "evil_feature" in text
    if nested:
        text = json.dumps({"jsonFeature": {"json": text}, "pythonClassName": "tensorflow_datasets.core.features.X"})
    path.write_text(text)
    with pytest.raises(RunError, match="features.json' names 'evil_feature.Image'.*not imported"):
        data.info("mnist_5k", data_dir=folder) and data.arrays("mnist_5k", data_dir=folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"splits": 3}', b"\xff\xfe"])
def test_a_damaged_description_is_one_line(prepared, file, content):
    folder, path = prepared
    path.with_name(file).write_bytes(content)
    catalog._source.cache_clear()
    with pytest.raises(RunError, match=r"1\.0\.0") as error:
        data.arrays("mnist_5k", data_dir=folder)
    assert "\n" not in str(error.value)
