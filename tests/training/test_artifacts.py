import keras
import pytest
import tensorflow as tf

from tests.training import tiny
from tfode_adv.errors import RunError
from tfode_adv.files import sha256
from tfode_adv.run_folder import MODEL, Run
from tfode_adv.training.artifacts import export, exported


def test_a_model_counts_as_exported_while_its_file_is_whole_and_has_its_weights(tmp_path):
    model = tiny.plain_model()
    assert not exported(model, tmp_path)
    model.save(tmp_path / MODEL)
    assert exported(model, tmp_path)
    model.trainable_variables[0].assign(model.trainable_variables[0] + 1e-3)
    assert not exported(model, tmp_path)
    (tmp_path / MODEL).write_bytes(b"half a file")
    assert not exported(model, tmp_path)


def test_what_a_killed_export_left_aside_is_deleted(tmp_path):
    (tmp_path / ".export.killed").mkdir()
    export(tiny.plain_model(), tmp_path)
    assert exported(tiny.plain_model(), tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_run_is_bound_to_the_model_that_it_exported(tmp_path):
    run = Run.create(tmp_path / "run", {"model": {"name": "plain"}})
    export(tiny.plain_model(), run.path)
    again = Run.open(run.path)
    assert again.config["model_sha256"] == sha256(run.model_path) and not again.swapped
    run.model_path.write_bytes(run.model_path.read_bytes() + b" ")
    assert again.swapped


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Unable to synchronously flush file (errno = 28, error message = 'No space left on device')"),
        OSError(28, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "x; No space left on device"),
    ],
)
def test_a_full_disk_is_one_line(tmp_path, monkeypatch, error):
    def full(*arguments, **options):
        raise error

    monkeypatch.setattr(keras.Model, "save_weights", full)
    with pytest.raises(RunError, match="cannot write the model to .*No space left on device"):
        export(tiny.plain_model(), tmp_path)
    assert not (tmp_path / MODEL).exists()
