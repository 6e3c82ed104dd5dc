"""What bin/evaluate --save_adversarial writes bin/verify computes again, and finds what was changed."""

import shutil

import keras
import numpy as np
import pytest

import tfode_adv as ta
from tfode_adv.cli import app, evaluate, verify
from tfode_adv.evaluation.evidence import Pack
from tfode_adv.evaluation.records import cells
from tfode_adv.run_folder import Run

COUNT = 10
CONFIG = {"model": {"name": "linear"}, "dataset": {"name": "mnist_5k"}, "flags": {}, "seed": 0}


def call(program, *arguments):
    """The program's exit status."""
    return app.call(program.main, program.FLAGS, [program.__name__, *map(str, arguments)], program is verify)


def make_run(path, epochs):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*ta.data.arrays("mnist_5k", "train", 500), batch_size=16, epochs=epochs, verbose=0)
    run = Run.create(path, CONFIG)
    run.finish(model)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "linear", epochs=3)


ASKED = ["--eps=0.1", "--attack=bim", "--steps=3", f"--num_examples={COUNT}"]


def written(run, *arguments):
    assert call(evaluate, f"--run={run.path}", *ASKED, *arguments) == 0
    (path,) = run.path.glob("evaluations/*/adversarial-*.npz")
    return path


@pytest.fixture(scope="module")
def path(run):
    return written(run, "--save_adversarial", "--norm=l2rms")


def moved(path, to):
    """A copy of the pack, one pixel of image 3 the least bit brighter."""
    pack = Pack.read(path)
    pack["adversarial"][3, 14, 14] = np.nextafter(pack["adversarial"][3, 14, 14], np.float32(2))
    pack.write(to)
    return to


def test_a_pack_that_was_written_holds(run, path, capsys):
    pack = Pack.read(path)
    (cell,) = [cell for cell in cells(run.path) if cell.folder == path.parent]
    assert pack["success"].tolist() == [record.success for record in cell.records().values()]
    assert pack["success"].any() and pack["index"].tolist() == list(range(COUNT))
    assert path.name == f"adversarial-{COUNT}.npz"
    capsys.readouterr()
    assert call(verify, path) == 0
    said = capsys.readouterr().out
    assert f"{COUNT} of {COUNT} images hold" in said and pack.seal in said and "bim l2rms 0.1" in said
    assert f"{int(pack['success'].sum())} as turned" in said


def test_a_pixel_that_was_moved_is_refused_by_its_image(path, tmp_path, capsys, run):
    copy = moved(path, tmp_path / "copy.npz")
    capsys.readouterr()
    assert call(verify, path, copy, f"--run={run.path}") == 1
    said, error = capsys.readouterr()
    assert "\nimage 3: its adversarial image was changed: another SHA-256\n" in said
    assert f"{COUNT - 1} of {COUNT} images hold" in said
    assert error == f"{verify.__name__}: {str(copy)!r} does not hold\n"


def test_a_pack_elsewhere_needs_the_model_that_was_attacked(run, path, tmp_path, capsys):
    copy = shutil.copy(path, tmp_path / "copy.npz")
    assert call(verify, copy) == 2
    assert "lies in no run folder" in capsys.readouterr().err
    assert call(verify, copy, f"--run={run.path}") == 0
    other = make_run(tmp_path / "other", epochs=1)
    capsys.readouterr()
    assert call(verify, copy, f"--run={other.path}") == 1
    error = capsys.readouterr().err
    assert "but those attacked had" in error and error.count("\n") == 1


def test_processes_and_a_resumed_evaluation_write_the_same_pack(run, path, tmp_path, capsys):
    first = Pack.read(path)
    folder = tmp_path / "run"
    shutil.copytree(run.path, folder, ignore=shutil.ignore_patterns("evaluations"))
    copies = written(Run.open(folder), "--save_adversarial", "--norm=l2rms", "--distribute=2")
    assert len(list(copies.parent.glob("records-*"))) == 2
    shutil.rmtree(folder / "evaluations")
    assert call(evaluate, f"--run={folder}", *ASKED, "--norm=l2rms", "--num_examples=4", "--num_images=2") == 0
    resumed = written(Run.open(folder), "--save_adversarial", "--norm=l2rms")
    for found in (Pack.read(copies), Pack.read(resumed)):
        assert found.columns.keys() == first.columns.keys()
        for name in ("index", "label", "clean_prediction", "adversarial_prediction", "success", "clean_sha256"):
            np.testing.assert_array_equal(found[name], first[name])
        np.testing.assert_allclose(found["adversarial"], first["adversarial"], atol=1e-5)


def test_images_that_are_not_those_of_the_records_are_not_written(run, path, capsys):
    (kept,) = path.parent.glob("image-000003.npz")
    whole = kept.read_bytes()
    with np.load(kept) as pair:
        np.savez(kept, clean=pair["clean"], adversarial=pair["clean"])
    try:
        assert call(evaluate, f"--run={run.path}", *ASKED, "--norm=l2rms", "--save_adversarial") == 1
    finally:
        kept.write_bytes(whole)
    error = capsys.readouterr().err
    assert "was not written" in error and "image 3" in error and "--overwrite" in error and error.count("\n") == 1


def test_what_cannot_be_computed_again_is_not_saved(run, capsys, tmp_path):
    for given, words in ("--attack=none", "attack none"), ("--random_tol=1e-3,1", "with random_tol no prediction"):
        assert call(evaluate, f"--run={run.path}", "--save_adversarial", given) == 2
        assert words in capsys.readouterr().err
    noisy = keras.Sequential([keras.Input((28, 28, 1)), _Noise(), keras.layers.Flatten(), keras.layers.Dense(10)])
    other = Run.create(tmp_path / "noisy", CONFIG)
    other.finish(noisy)
    assert call(evaluate, f"--run={other.path}", "--save_adversarial", *ASKED) == 2
    assert "draws at random" in capsys.readouterr().err


@keras.saving.register_keras_serializable("tests")
class _Noise(keras.layers.Layer):
    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x))


def test_a_network_of_the_zoo_is_found_by_its_name(run, path, tmp_path, monkeypatch):
    about = Pack.read(path).about.replace('"network": null', '"network": "paper/linear"')
    pack = Pack(about, Pack.read(path).columns, "")
    verify.FLAGS.unparse_flags()
    verify.FLAGS(["verify"])
    monkeypatch.setattr(verify, "opened", lambda name: name)
    assert verify._run_of(str(tmp_path / "moved.npz"), pack) == "zoo:paper/linear"
    # Where the pack lies in a run, that is the one.
    assert verify._run_of(str(path), pack).path == run.path
