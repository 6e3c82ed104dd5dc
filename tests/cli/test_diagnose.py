import contextlib
import json

import keras
import numpy as np
import pytest
from PIL import Image

from tfode_adv import data, files
from tfode_adv.attacks import defaults
from tfode_adv.cli import app, diagnose
from tfode_adv.diagnosis import reader as reader
from tfode_adv.errors import RunError
from tfode_adv.published import budgets
from tfode_adv.run_folder import Run


def call(*arguments):
    return app.call(diagnose.main, diagnose.FLAGS, ["diagnose", *map(str, arguments)], positional=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a linear classifier: the least that can be diagnosed."""
    folder = tmp_path_factory.mktemp("runs") / "linear"
    config = {"model": {"name": "linear", "kwargs": {}}, "dataset": {"name": "mnist_5k"}}
    run = Run.create(folder, config)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*data.arrays("mnist_5k", "train", 2000), epochs=2, verbose=0)
    model.save(run.model_path)
    return folder


def test_a_run_is_diagnosed_and_a_second_time_only_read(trained, capsys):
    arguments = (trained, "--num_examples=16", "--eps=0.03", "--step_size=0.01")
    assert call(*arguments) == app.OK
    printed = capsys.readouterr().out
    assert "worst case" in printed and "Verdict:" in printed
    document = json.loads((trained / "diagnosis" / "diagnosis.json").read_text())
    assert document["settings"]["data set"] == "mnist_5k" and document["settings"]["ε"] == 0.03
    assert document["verdict"]["images"] == 16
    assert document["model"] == files.sha256(trained / "model.keras")
    assert len(reader.read("linear", Run.open(trained)).sections) >= 4

    pieces = {path: path.stat().st_mtime_ns for path in (trained / "diagnosis" / "pieces").iterdir()}
    assert call(*arguments) == app.OK
    assert capsys.readouterr().out == printed
    assert pieces == {path: path.stat().st_mtime_ns for path in (trained / "diagnosis" / "pieces").iterdir()}


def test_a_log_file_has_its_first_line_before_the_images_are_read(trained, tmp_path, monkeypatch):
    def images(*arguments):
        assert "diagnosing" in (tmp_path / "log").read_text()
        raise RunError("far enough")

    monkeypatch.setattr(diagnose, "_images", images)
    with open(tmp_path / "log", "w") as log, contextlib.redirect_stdout(log):
        assert call(trained) == app.FAILED


def test_a_diagnosis_of_replaced_weights_is_moved_aside(tmp_path):
    run = Run.create(tmp_path / "run", {"model": {"name": "linear"}})
    old, new = "a" * 64, "b" * 64
    for place in ("diagnosis-aaaaaaaa", "diagnosis-aaaaaaaa-2"):
        files.write_json(run.path / "diagnosis" / "diagnosis.json", {"model": old})
        assert reader.set_aside(run, old) is None
        assert reader.set_aside(run, new) == run.path / place
        assert files.read_json(run.path / place / "diagnosis.json") == {"model": old}
        assert not (run.path / "diagnosis").exists()
    assert reader.set_aside(run, new) is None
    files.write_json(run.path / "diagnosis" / "diagnosis.json", {"report": []})
    assert reader.set_aside(run, new) is None


@pytest.mark.parametrize(
    "arguments, status, words",
    [
        (("a", "b"), app.USAGE, "one run folder"),
        (("a", "--run=b"), app.USAGE, "one run folder"),
        (("a", "--eps=-1"), app.USAGE, "eps"),
        (("a", "--tol=0"), app.USAGE, "tol"),
        (("a", "--budget=huge"), app.USAGE, "quick|full"),
        (("a", "--norm=l7"), app.USAGE, "linf"),
        (("nowhere",), app.FAILED, "nowhere/config.json"),
    ],
)
def test_a_mistake_is_one_line(arguments, status, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and words in captured.err


def test_an_unfinished_run_is_named(tmp_path, capsys):
    Run.create(tmp_path / "run", {"model": {"name": "oon"}, "dataset": {"name": "mnist_5k"}})
    assert call(tmp_path / "run") == app.FAILED
    assert "model.keras" in capsys.readouterr().err


def test_a_run_without_a_data_set_needs_one(tmp_path, capsys):
    Run.create(tmp_path / "run", {"model": {"name": "oon"}})
    assert call(tmp_path / "run") == app.FAILED
    assert "--dataset" in capsys.readouterr().err


def test_no_image_of_the_training_calibrates_a_detector(tmp_path):
    diagnose.FLAGS.unparse_flags()
    diagnose.FLAGS(["diagnose", "--num_examples=4"])
    for share, count in ((0.0, 0), (None, 4)):
        config = {"model": {"name": "oon"}, "dataset": {"name": "mnist_5k", "validation": share}}
        images = diagnose._images(Run.create(tmp_path / str(share), config), "mnist_5k")
        assert len(images.x) == 4 and len(images.validation) == count


def test_pictures_are_looked_at_under_the_names_of_their_classes(tmp_path):
    diagnose.FLAGS.unparse_flags()
    diagnose.FLAGS(["diagnose"])
    for name in ("bee", "cat"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("L", (4, 4)).save(tmp_path / "pictures" / name / f"{number}.png")
    dataset = {"name": f"folder:{tmp_path / 'pictures'}", "validation": 0.0, "classes": ["ant", "bee", "cat"]}
    run = Run.create(tmp_path / "run", {"model": {"name": "oon"}, "dataset": dataset})
    assert sorted(diagnose._images(run, dataset["name"]).y) == [1, 2]


def test_a_small_test_split_is_looked_at_whole(tmp_path, monkeypatch):
    diagnose.FLAGS.unparse_flags()
    diagnose.FLAGS(["diagnose"])
    size = data.info("mnist_5k").num_examples("test")
    run = Run.create(tmp_path / "run", {"model": {"name": "oon"}, "dataset": {"name": "mnist_5k", "validation": 0.0}})
    for most in (size + 1, 7):
        monkeypatch.setattr(diagnose, "NUM_EXAMPLES", most)
        assert len(diagnose._images(run, "mnist_5k").x) == min(most, size)


def test_the_middle_of_the_published_radii_is_the_default():
    diagnose.FLAGS.unparse_flags()
    diagnose.FLAGS(["diagnose", "--norm=linf"])
    protocol = diagnose._protocol("mnist", "oon")
    assert (protocol.eps, protocol.step_size, protocol.steps) == (0.1, 0.05, 10)
    assert np.isclose(diagnose._protocol("cifar10", "oon").eps, 0.031)


@pytest.mark.parametrize(
    "flags, step", [(["--eps=0.01"], 0.0025), (["--eps=0.3"], 0.05), (["--eps=0.2", "--steps=5"], 0.05)]
)
def test_a_step_is_no_longer_than_an_unpublished_radius_bears(flags, step):
    diagnose.FLAGS.unparse_flags()
    diagnose.FLAGS(["diagnose", *flags])
    assert np.isclose(diagnose._protocol("mnist", "oon").step_size, step)


def test_each_papers_models_were_attacked_through_its_own_gradient():
    diagnose.FLAGS.unparse_flags()
    diagnose.FLAGS(["diagnose"])
    assert diagnose._protocol("mnist", "oon").gradient == "adjoint"
    for name in ("sonet", "soblock_resnet10", "odenet_tq"):
        assert diagnose._protocol("cifar10", name).gradient == "backprop_steps"
    assert {diagnose._protocol("cifar10", name).gradient for name in ("my_model", None)} == {"backprop"}
    diagnose.FLAGS.unparse_flags()
    diagnose.FLAGS(["diagnose", "--gradient=backprop"])
    assert diagnose._protocol("mnist", "oon").gradient == "backprop"


@pytest.mark.parametrize("dataset, norm", list(budgets.PUBLISHED))
def test_evaluation_and_diagnosis_have_one_default_radius(dataset, norm):
    diagnose.FLAGS.unparse_flags()
    diagnose.FLAGS(["diagnose", f"--norm={norm}"])
    evaluated = defaults.hyperparameters("pgd", dataset, norm)
    protocol = diagnose._protocol(dataset, "oon")
    assert (protocol.eps, protocol.step_size) == (evaluated["eps"], evaluated["step_size"])
