"""Run folders: made once, found again, and refused in one line when they will not do."""

import os
import zipfile

import keras
import numpy as np
import pytest

from tfode_adv.errors import RunError
from tfode_adv.files import sha256, write_json
from tfode_adv.run_folder import Run

CONFIG = {"flags": {}, "model": {"name": "oon", "kwargs": {}}, "dataset": {"name": "mnist_5k"}, "seed": 0}


def _finish(run, bias=0.0):
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(bias))]
    )
    model.save(run.model_path)
    return model


def test_a_run_is_written_and_opened_again(tmp_path):
    run = Run.create(tmp_path / "a", CONFIG)
    assert not run.finished
    model = _finish(run, bias=3.0)
    again = Run.open(tmp_path / "a")
    assert again.finished and again.config == run.config
    assert {"python", "tensorflow", "keras"} <= set(again.config["versions"])
    assert "git_revision" in again.config
    x = np.ones((4, 2), np.float32)
    np.testing.assert_array_equal(again.load_model()(x), model(x))


def test_nothing_of_an_earlier_run_is_overwritten_unless_asked(tmp_path):
    run = Run.create(tmp_path, CONFIG)
    run.model_path.write_text("precious")
    with pytest.raises(RunError, match="--overwrite"):
        Run.create(tmp_path, CONFIG)
    assert run.model_path.read_text() == "precious"
    assert not Run.create(tmp_path, CONFIG, overwrite=True).finished


def test_overwrite_leaves_a_folder_alone_that_is_no_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunError, match="no run"):
        Run.create(tmp_path, CONFIG, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_the_newest_finished_run_is_found(tmp_path):
    for age, name in enumerate(["new", "middle/deep", "old"]):
        run = Run.create(tmp_path / name, CONFIG)
        run.model_path.touch()
        os.utime(run.model_path, (1e9 - age, 1e9 - age))
    Run.create(tmp_path / "unfinished", CONFIG)
    assert Run.newest(tmp_path).path == tmp_path / "new"


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_a_config_that_will_not_do_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunError) as error:
        Run.open(tmp_path)
    assert str(tmp_path / "config.json") in str(error.value) and "\n" not in str(error.value)


def test_no_finished_run_says_where_it_looked(tmp_path):
    Run.create(tmp_path / "a", CONFIG)
    with pytest.raises(RunError, match=f"no finished run.*{tmp_path}"):
        Run.newest(tmp_path)
    with pytest.raises(RunError, match="no finished run"):
        Run.newest(tmp_path / "nowhere")


def test_a_missing_or_corrupt_model_is_named(tmp_path):
    run = Run.create(tmp_path, CONFIG)
    with pytest.raises(RunError, match="model.keras.*not finished"):
        run.load_model()
    _finish(run)
    whole = run.model_path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-40]):
        run.model_path.write_bytes(damaged)
        with pytest.raises(RunError, match="model.keras.*cannot be loaded") as error:
            run.load_model()
        assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"):
        Run.create(tmp_path / "file" / "run", CONFIG)


def test_another_run_s_model_does_not_pass_for_one_s_own(tmp_path):
    for name in ("a", "b"):
        run = Run.create(tmp_path / name, CONFIG)
        _finish(run, bias=1.0 if name == "a" else 2.0)
        run.bind(sha256(run.model_path))
    ours, theirs = Run.open(tmp_path / "a"), Run.open(tmp_path / "b")
    assert not ours.swapped and ours.load_model() is not None
    ours.model_path.write_bytes(theirs.model_path.read_bytes())
    assert ours.swapped
    with pytest.raises(RunError, match="model.keras.*not the model that this run made.*model_sha256"):
        ours.load_model()


@pytest.mark.parametrize(
    "part, named",
    [
        ({"flags": [1]}, "flags is [1]"),
        ({"model": {"name": 7}}, "model.name is 7"),
        ({"dataset": "mnist"}, "dataset is 'mnist'"),
        ({"dataset": {"name": ["mnist"]}}, "dataset.name is ['mnist']"),
        ({"dataset": {"name": "mnist", "validation": "all"}}, "dataset.validation is 'all'"),
        ({"dataset": {"name": "mnist", "classes": 3}}, "dataset.classes is 3"),
        ({"seed": True}, "seed is True"),
        ({"resumed": 1}, "resumed is 1"),
    ],
)
def test_a_config_with_a_value_of_another_kind_is_named(tmp_path, part, named):
    write_json(tmp_path / "config.json", {**CONFIG, **part})
    with pytest.raises(RunError) as error:
        Run.open(tmp_path)
    assert str(tmp_path / "config.json") in str(error.value) and str(error.value).endswith(f"corrupt: {named}")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"model": {"name": "oon"}, "dataset": {"validation": NaN}}'])
def test_json_that_is_none_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunError, match="config.json.*corrupt"):
        Run.open(tmp_path)


@pytest.mark.parametrize("units", ["1000000000000000", '"many"'])
def test_a_model_of_a_shape_that_cannot_be_is_named(tmp_path, units):
    run = Run.create(tmp_path, CONFIG)
    _finish(run)
    with zipfile.ZipFile(run.model_path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    changed = parts["config.json"].replace(b'"units": 1,', f'"units": {units},'.encode())
    assert changed != parts["config.json"]
    with zipfile.ZipFile(run.model_path, "w") as archive:
        for name, part in {**parts, "config.json": changed}.items():
            archive.writestr(name, part)
    with pytest.raises(RunError, match="model.keras.*cannot be loaded") as error:
        run.load_model()
    assert "\n" not in str(error.value)


def test_a_model_that_is_empty_is_not_called_missing(tmp_path):
    run = Run.create(tmp_path, CONFIG)
    run.model_path.touch()
    with pytest.raises(RunError, match="model.keras.*0 bytes are no Keras archive"):
        run.load_model()
