"""bin/convert: a checkpoint in, a run folder out."""

import numpy as np
import pytest

import tfode_adv as ta
from tests.interop.torch_states import torch_state
from tfode_adv.cli import app, convert, evaluate
from tfode_adv.run_folder import Run


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "c.npz"
    np.savez(path, **torch_state())
    return path


def _call(*arguments):
    return app.call(convert.main, convert.FLAGS, ["bin/convert", *arguments])


def test_the_run_holds_the_model(checkpoint, tmp_path, capsys):
    folder = tmp_path / "run"
    flags = (f"--from={checkpoint}", f"--run_dir={folder}", "--model=oon", "--dataset=mnist")
    assert _call(*flags, "--image_size=8,9", "--tol=0.5", "--mean=0.1", "--deviation=0.3") == 0
    run = Run.open(folder)
    model = run.load_model()
    assert run.finished and model.input_shape == (None, 8, 9, 1)
    assert run.config["model"]["name"] == "oon" and run.config["dataset"]["name"] == "mnist"
    again = ta.models.build(run.config["model"]["name"], **run.config["model"]["kwargs"])
    ta.interop.load_torch_state(again, torch_state())
    x = np.random.default_rng(0).random((2, 8, 9, 1), np.float32)
    np.testing.assert_allclose(model(x), again(x), atol=1e-6)
    assert model.get_layer("ode").tol == pytest.approx(0.5)
    assert "data set: mnist\n" in capsys.readouterr().out
    assert _call(*flags) == 1 and "--overwrite" in capsys.readouterr().err
    assert _call(*flags, "--overwrite") == 0


@pytest.mark.parametrize(
    "flags, status, words",
    [
        (["--model=oon"], 2, "--from is missing"),
        (["--model=net", "--from={c}", "--run_dir={d}"], 2, "must be one of: res"),
        (["--model=res", "--from={c}", "--run_dir={d}"], 2, "not of res|does not fit res"),
        (["--model=oon", "--from={c}", "--run_dir={d}", "--image_size=8"], 2, "height,width"),
        (["--model=oon", "--from={c}", "--run_dir={d}", "--image_size=8,8,3"], 2, "height,width"),
        (["--model=oon", "--from={c}", "--run_dir={d}", "--image_size=8.5,8"], 2, "must be a whole number"),
        (["--model=oon", "--from={c}", "--run_dir={d}", "--dataset=mnits"], 2, "dataset is 'mnits'"),
        (["--model=oon", "--from={c}", "--run_dir={d}", "--num_steps=8"], 2, "num_steps"),
        (["--model=oon", "--from={c}", "--run_dir={d}", "--mean=0.5"], 2, "go together"),
        (["--model=oon", "--from=nowhere.npz", "--run_dir={d}"], 1, "nowhere.npz' is missing"),
    ],
)
def test_mistakes_leave_no_run(checkpoint, tmp_path, capsys, flags, status, words):
    folder = tmp_path / "run"
    assert _call(*(flag.format(c=checkpoint, d=folder) for flag in flags)) == status
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and any(word in err for word in words.split("|"))
    assert not folder.exists()


def test_bin_evaluate_takes_the_run(tmp_path, capsys):
    np.savez(tmp_path / "c.npz", **torch_state(classes=10))
    run = f"--run_dir={tmp_path / 'run'}"
    assert _call(f"--from={tmp_path / 'c.npz'}", run, "--model=oon", "--solver=euler", "--num_steps=2") == 0
    flags = [f"--run={tmp_path / 'run'}", "--attack=fgsm", "--eps=0.1", "--num_examples=8", "--batch_size=8"]
    assert app.call(evaluate.main, evaluate.FLAGS, ["bin/evaluate", *flags]) == 0
    assert "fgsm" in capsys.readouterr().out


@pytest.mark.parametrize("classes, dataset", [(10, "mnist_5k"), (7, None)])
def test_the_data_set_is_guessed_where_shape_and_classes_fit(tmp_path, capsys, classes, dataset):
    np.savez(tmp_path / "c.npz", **torch_state(classes=classes))
    assert _call(f"--from={tmp_path / 'c.npz'}", f"--run_dir={tmp_path / 'run'}", "--model=oon") == 0
    assert Run.open(tmp_path / "run").config["dataset"]["name"] == dataset
    assert (dataset or "no data set recorded") in capsys.readouterr().out
