from tests.training import tiny
from tfode_adv.runs import MODEL
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
