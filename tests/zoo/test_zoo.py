"""Networks that come with the package: whole, themselves, and runs that the programs take."""

import gzip
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import tfode_adv as ta
from tfode_adv import files
from tfode_adv.cli.run_argument import opened
from tfode_adv.errors import RunError, UsageError
from tfode_adv.models import precision as number_types
from tfode_adv.run_folder import Run
from tfode_adv.zoo import networks

NAMES = list(ta.zoo.available())
MOST_BYTES = 12 * 2**20


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A zoo of one small network, and an empty folder to work in."""
    model = ta.models.build("oon", filters=4, input_shape=(12, 12, 1), tol=0.1, normalization=((0.3,), (0.7,)))
    config = {
        "model": {"name": "oon", "kwargs": {"filters": 4, "tol": 0.1, "gradient": None}},
        "flags": {"mixed_precision": "none", "epochs": 3, "data_dir": "/home/me/data", "run_dir": "runs/me"},
        "dataset": {"name": "mnist_5k", "data_dir": "/home/me/data"},
    }
    run = Run.create(tmp_path / "trained", config)
    run.finish(model)
    ta.zoo.add(run.path, "paper/small", {"summary": "a small one"}, root=tmp_path / "zoo")
    monkeypatch.setattr(networks, "HERE", tmp_path / "zoo")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return model


def images(count=5):
    return tf.random.stateless_uniform([count, 12, 12, 1], seed=[0, 1])


def test_the_zoo_stays_small():
    assert sum(path.stat().st_size for path in networks.HERE.rglob("*.*")) < MOST_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_a_card_tells_what_a_network_is(name):
    card = ta.zoo.card(name)
    assert (
        card["summary"]
        and card["data"]
        and card["command"].startswith(("bin/train --flagfile=configs/", "bin/convert --model="))
    )
    error = card["test"]["error"]
    assert 0 <= error["low"] <= error["value"] <= error["high"] <= 1 and error["total"] == 10_000
    assert f"zoo:{name}" in card["test"]["command"]
    assert "/" not in json.dumps(card["config"]["dataset"])


@pytest.mark.parametrize("name", NAMES)
def test_a_network_says_what_it_said(name, shared):
    """Of 200 test images, by their bytes."""
    known = dict(ta.zoo.card(name)["predictions"])
    assert len(known) == 200
    found = {}
    for image in _test_images(ta.zoo.card(name)["config"]["dataset"]["name"], shared):
        key = networks.image_key(image)
        if key in known:
            found[key] = image
    x = np.stack([found[key] for key in known]).astype(np.float32) / 255
    said = ta.zoo.load(name).predict(x, batch_size=100, verbose=0).argmax(axis=-1)
    # In bfloat16 two classes may be a hair's breadth apart, and one processor rounds unlike another.
    assert (said != list(known.values())).sum() <= 2


def _test_images(dataset, shared):
    yield from {"cifar10": _cifar10_images, "mnist": _mnist_images}[dataset](shared / "data")


def _mnist_images(folder):
    packed = (folder / "mnist-t10k-images-idx3-ubyte.gz").read_bytes()
    yield from np.frombuffer(gzip.decompress(packed), np.uint8, offset=16).reshape(-1, 28, 28, 1)


def _cifar10_images(folder):
    with np.load(folder / "cifar10-jpeg-test.npz") as file:
        blob, lengths = file["jpeg"].tobytes(), file["length"]
    for end, length in zip(np.cumsum(lengths), lengths, strict=True):
        yield tf.io.decode_jpeg(blob[end - length : end], channels=3).numpy()


def test_a_network_is_loaded_by_its_name(elsewhere):
    assert ta.zoo.available() == {"paper/small": "a small one"}
    network = ta.zoo.load("paper/small")
    assert [block.tol for block in ta.models.ode_blocks(network)] == [0.1]
    np.testing.assert_allclose(network(images()), elsewhere(images()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("precision", "computes_in"), [(None, "bfloat16"), ("none", "float32")])
def test_a_network_trained_in_half_precision_may_be_kept_for_full(elsewhere, tmp_path, precision, computes_in):
    config = files.read_json(tmp_path / "trained" / "config.json")
    config["flags"]["mixed_precision"] = "bfloat16"
    files.write_json(tmp_path / "trained" / "config.json", config)
    ta.zoo.add(tmp_path / "trained", "paper/other", {"summary": "another"}, networks.HERE, precision)
    made = (ta.zoo.load("paper/other"), networks.candidate(tmp_path / "trained", precision))
    assert [ta.models.ode_blocks(model)[0].dynamics.compute_dtype for model in made] == [computes_in] * 2
    np.testing.assert_array_equal(made[0](images()), made[1](images()))
    kernel = elsewhere.get_weights()[0]
    np.testing.assert_array_equal(made[0].get_weights()[0], tf.cast(tf.cast(kernel, computes_in), kernel.dtype))


def test_kernels_of_half_precision_layers_are_kept_in_it_and_answer_the_same(elsewhere, tmp_path):
    config = files.read_json(tmp_path / "trained" / "config.json")
    config["flags"]["mixed_precision"] = "bfloat16"
    files.write_json(tmp_path / "trained" / "config.json", config)
    ta.zoo.add(tmp_path / "trained", "paper/half", {"summary": "half"}, networks.HERE)
    with number_types.precision("bfloat16"):
        exact = ta.models.build("oon", filters=4, input_shape=(12, 12, 1), tol=0.1, normalization=((0.3,), (0.7,)))
    exact.set_weights(elsewhere.get_weights())
    half = ta.zoo.load("paper/half")
    np.testing.assert_array_equal(half(images()), exact(images()))
    # The logits' kernel computes in float32, and keeps all of its digits.
    rounded = [(kernel.view(np.uint32) & 0xFFFF == 0).all() for kernel in half.get_weights() if kernel.ndim >= 2]
    assert any(rounded) and not rounded[-1]


def test_kernels_may_be_stored_in_half_the_room(elsewhere, tmp_path):
    ta.zoo.add(tmp_path / "trained", "paper/half", {"summary": "half"}, networks.HERE, stored="float16")
    half, measured = ta.zoo.load("paper/half"), networks.candidate(tmp_path / "trained", stored="float16")
    np.testing.assert_array_equal(half(images()), measured(images()))
    with np.load(networks.HERE / "paper" / "half.npz") as file:
        kept = [networks.unpacked(file[place]) for place in file.files]
    assert {weight.dtype for weight in kept if weight.ndim >= 2} == {np.dtype("float16")}
    for ours, theirs in zip(half.get_weights(), elsewhere.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2**-11, atol=1e-7)
    run = Run.open(tmp_path / "trained")
    wide = [weight * 1e6 for weight in run.load_model().get_weights()]
    elsewhere.set_weights(wide)
    Run.create(tmp_path / "wide", run.config).finish(elsewhere)
    with pytest.raises(UsageError, match="which float16 cannot hold"):
        ta.zoo.add(tmp_path / "wide", "paper/wide", {"summary": "wide"}, networks.HERE, stored="float16")
    with pytest.raises(UsageError, match="float8"):
        networks.candidate(tmp_path / "trained", stored="float8")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(), (5,), (2, 0, 3), (3, 3, 2, 4)])
def test_packed_weights_are_the_same_to_the_last_bit(dtype, shape):
    weight = np.random.RandomState(0).standard_normal(shape).astype(dtype)
    planes = networks.packed(weight)
    assert planes.shape == (weight.itemsize, *shape)
    again = networks.unpacked(planes)
    assert again.dtype == dtype and again.shape == shape and again.tobytes() == weight.tobytes()


def test_weights_of_another_type_are_not_packed():
    with pytest.raises(UsageError, match="int32"):
        networks.packed(np.zeros(3, np.int32))


def test_a_card_keeps_no_place_of_the_machine(elsewhere):
    config = ta.zoo.card("paper/small")["config"]
    assert config["flags"] == {"mixed_precision": "none", "epochs": 3} and config["dataset"] == {"name": "mnist_5k"}


def test_a_name_that_is_not_there_is_one_line_with_the_choices(elsewhere):
    for call, choice in ((ta.zoo.load, "paper/small"), (ta.zoo.card, "paper/small"), (opened, "zoo:paper/small")):
        with pytest.raises(UsageError) as caught:
            call("zoo:paper/other")
        assert "'zoo:paper/other'" in str(caught.value) and str(caught.value).endswith(choice)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-9]), lambda path: path.unlink()])
def test_damaged_weights_are_refused(elsewhere, damage):
    damage(networks.HERE / "paper" / "small.npz")
    with pytest.raises(RunError, match=r"small\.npz"):
        ta.zoo.load("paper/small")


def test_a_network_is_a_run_under_runs(elsewhere):
    run = opened("zoo:paper/small")
    assert run.path.as_posix() == "runs/zoo/paper/small" and run.finished and run.dataset == "mnist_5k"
    np.testing.assert_allclose(run.load_model()(images()), elsewhere(images()), rtol=1e-5, atol=1e-6)
    before = run.model_path.stat().st_mtime_ns
    assert opened("zoo:paper/small").model_path.stat().st_mtime_ns == before
    assert [path.name for path in run.path.parent.iterdir()] == ["small"]


def test_a_folder_of_something_else_is_not_taken_for_a_network(elsewhere, tmp_path):
    shutil.copytree(tmp_path / "trained", "runs/zoo/paper/small")
    with pytest.raises(RunError, match="something else"):
        opened("zoo:paper/small")
