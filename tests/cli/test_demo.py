"""What bin/demo does to a folder that holds a run."""

import pytest

from tfode_adv.cli import app, demo, flags, train
from tfode_adv.errors import RunError
from tfode_adv.run_folder import Run


def _run(folder, *arguments):
    train.FLAGS.unparse_flags()
    train.FLAGS(["train", *demo.RECIPE, f"--run_dir={folder}", *arguments])
    run = Run.create(folder, {"model": {"name": "oon"}, "flags": flags.as_dict(train.FLAGS)})
    run.model_path.write_text("precious")
    return run


def _demo(folder):
    return app.call(demo.main, demo.FLAGS, ["demo", f"--run_dir={folder}"])


@pytest.mark.parametrize("other", ["--learning_rate=0.1", "--seed=1", "--augment=crop+flip"])
def test_a_run_that_is_no_demo_is_left_alone(tmp_path, capsys, other):
    run = _run(tmp_path / "run", other)
    assert _demo(run.path) == app.FAILED
    assert f"{str(run.path)!r} already exists" in capsys.readouterr().err
    assert run.model_path.read_text() == "precious"


@pytest.mark.parametrize("earlier", [True, False])
def test_an_earlier_demo_gives_way(tmp_path, monkeypatch, earlier):
    if earlier:
        _run(tmp_path / "run", "--epochs=9", "--filters=8", "--overwrite")
    given = []

    def call(program, *arguments):
        given.extend(arguments)
        raise RunError("enough")

    monkeypatch.setattr(demo, "_call", call)
    assert _demo(tmp_path / "run") == app.FAILED
    assert "--overwrite" in given


def test_more_images_than_there_are_is_told_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "_call", lambda *arguments: pytest.fail("trained"))
    arguments = ["demo", f"--run_dir={tmp_path / 'run'}", "--num_examples=100000"]
    assert app.call(demo.main, demo.FLAGS, arguments) == app.USAGE
    assert "num_examples is 100000, but must be at least 1 and at most 1000" in capsys.readouterr().err
