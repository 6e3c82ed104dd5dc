"""bin/train end to end on a few images, its flags, and the published recipes."""

import contextlib
import csv
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import models, training
from tfode_adv.cli import app, recipes, train
from tfode_adv.errors import UsageError
from tfode_adv.files import sha256
from tfode_adv.run_folder import Run
from tfode_adv.training.checkpoints import Checkpoints, locked
from tfode_adv.training.state import State

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
SMALL = [
    "--model=oon",
    "--filters=4",
    "--tol=0.1",
    "--solver=bosh3",
    "--dataset=mnist_5k",
    "--num_train_examples=48",
    "--batch_size=16",
    "--validation=0.01",
    "--epochs=1",
    "--normalization=data",
]


def _call(*arguments):
    return app.call(train.main, train.FLAGS, ["train", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "oon"
    assert _call(*SMALL, f"--run_dir={folder}") == app.OK
    return folder


def test_a_run_folder_holds_all_it_should(folder):
    run = Run.open(folder)
    assert run.finished and run.config["model"]["name"] == "oon" and run.config["seed"] == 0
    assert run.config["flags"]["tol"] == 0.1 and run.config["flags"]["epochs"] == 1
    assert {"tensorflow", "keras"} <= run.config["versions"].keys() and "git_revision" in run.config
    with open(folder / "metrics.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert {"loss", "nfe", "nfe_backward", "val_error"} <= row.keys()
    assert len(list((folder / "checkpoints").glob("step-*"))) == 1
    assert len(list((folder / "checkpoints").glob("best-*"))) == 1
    assert list((folder / "tensorboard").iterdir())
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_the_exports_agree_and_the_saved_model_takes_a_tolerance(folder):
    model = Run.open(folder).load_model()
    images = tf.constant(np.random.default_rng(0).uniform(size=(3, 28, 28, 1)), tf.float32)
    serve = tf.saved_model.load(str(folder / "saved_model")).signatures["serving_default"]
    for tol in (0.1, 1e-3):
        models.set_solver(model, tol=tol)
        logits = serve(images=images, tol=tf.constant(tol))["logits"]
        np.testing.assert_allclose(logits, model(images), atol=1e-5)
    coarse = serve(images=images, tol=tf.constant(10.0))["logits"]
    assert np.abs(coarse - logits).max() > 1e-5
    again = keras.models.clone_model(model)
    again.load_weights(folder / "model.weights.h5")
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_a_resumed_run_takes_its_own_flags_and_refuses_others(folder, monkeypatch, capsys):
    assert _call("--resume", f"--run_dir={folder}", "--batch_size=8") == app.USAGE
    assert "batch_size is 8" in capsys.readouterr().err

    def resumed(recipe, run, *, survival, **options):
        assert (recipe.epochs, recipe.batch_size, recipe.model_options["filters"]) == (2, 16, 4)
        assert survival.resume and run(True).path == folder
        return None, State(epoch=2, finished=True, best_error=0.5, best_epoch=0)

    monkeypatch.setattr(train.training, "train", resumed)
    assert _call("--resume", f"--run_dir={folder}", "--epochs=2") == app.OK


def test_a_resumed_run_says_what_it_was_started_with_before(monkeypatch, tmp_path):
    monkeypatch.setattr(
        training, "train", lambda recipe, run, **options: (run(True), State(finished=True, best_error=0.5))
    )
    assert _call(*SMALL, f"--run_dir={tmp_path / 'run'}", "--model=resnet10", "--blocks=1") == app.OK
    first = Run.open(tmp_path / "run").config
    monkeypatch.setattr("tfode_adv.run_folder.git_revision", lambda: "later")
    for epochs in (4, 4, 6):
        assert _call("--resume", f"--run_dir={tmp_path / 'run'}", f"--epochs={epochs}") == app.OK
    now = Run.open(tmp_path / "run").config
    assert now["flags"] == {**first["flags"], "epochs": 6} and now["git_revision"] == "later"
    assert now.pop("resumed") == [
        {"flags": {"epochs": 1}, "git_revision": first["git_revision"]},
        {"flags": {"epochs": 4}},
    ]
    assert now.keys() == first.keys() and now["model"] == first["model"]


def test_a_run_goes_on_with_the_classes_that_it_was_begun_with_alone(folder, tmp_path, monkeypatch, capsys):
    config = Run.open(folder).config
    digits = config["dataset"]["classes"]
    assert digits == [str(digit) for digit in range(10)]
    Run.create(tmp_path / "run", {**config, "dataset": {**config["dataset"], "classes": ["ant", *digits[1:]]}})
    monkeypatch.setattr(train.training, "train", lambda recipe, run, **options: (run(True), State(finished=True)))
    assert _call("--resume", f"--run_dir={tmp_path / 'run'}") == app.FAILED
    error = capsys.readouterr().err
    assert "the classes of mnist_5k are 0, 1, 2" in error and "was trained on ant, 1, 2" in error


def test_a_log_file_has_its_first_line_before_anything_is_trained(tmp_path, monkeypatch):
    def trained(recipe, run, **options):
        run(True)
        assert "training oon on mnist_5k" in (tmp_path / "log").read_text()
        return None, State(finished=True, best_error=0.5)

    monkeypatch.setattr(train.training, "train", trained)
    with open(tmp_path / "log", "w") as log, contextlib.redirect_stdout(log):
        assert _call(*SMALL, f"--run_dir={tmp_path / 'run'}") == app.OK


def test_a_better_part_of_an_epoch_is_exported_in_place_of_the_best_whole_one(monkeypatch, tmp_path, capsys):
    # No weights at all: exporting them would fail.
    monkeypatch.setattr(Checkpoints, "best", lambda self: ({}, {"error": 1.1}, None))
    quick = [*SMALL, "--model=resnet10", "--blocks=1"]
    assert _call(*quick, f"--run_dir={tmp_path / 'run'}", "--max_updates=2") == app.OK
    assert "in epoch 1" in capsys.readouterr().out.splitlines()[-1]
    assert Run.open(tmp_path / "run").finished


def test_resuming_a_finished_run_leaves_its_model_as_it_is(folder):
    before = sha256(folder / "model.keras")
    assert _call("--resume", f"--run_dir={folder}", "--epochs=1") == app.OK
    assert sha256(folder / "model.keras") == before


def test_a_training_starts_from_another_run_trains_one_layer_and_goes_on_without_it(tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    small = ["--model=tisode_cnn", "--filters=4", "--dataset=mnist_5k", "--num_train_examples=32", "--batch_size=16"]
    small += ["--validation=0.01", "--epochs=1", "--notensorboard"]
    assert _call(*small, f"--run_dir={first}") == app.OK
    more = [*small, f"--start_from={first}", "--train_only=logits", "--optimizer=adam", "--learning_rate=0.01"]
    assert _call(*more, f"--run_dir={second}") == app.OK
    assert f"weights of '{first}': stem, stem_norm" in capsys.readouterr().out
    before, after = Run.open(first).load_model(), Run.open(second).load_model()
    same = {
        layer.name: all(map(np.array_equal, layer.get_weights(), after.get_layer(layer.name).get_weights()))
        for layer in before.layers
    }
    assert [name for name, equal in same.items() if not equal] == ["logits"]
    shutil.rmtree(first)
    assert _call("--resume", f"--run_dir={second}", "--epochs=2") == app.OK
    assert _call(*more, f"--run_dir={tmp_path / 'third'}") == app.FAILED and not (tmp_path / "third").exists()
    assert str(first) in capsys.readouterr().err


def test_a_folder_in_use_is_left_alone(folder, capsys):
    before = (folder / "config.json").read_bytes()
    with locked(folder):
        for flag in ("--overwrite", "--resume"):
            assert _call(*([] if flag == "--resume" else SMALL), f"--run_dir={folder}", flag) == app.FAILED
            assert "in use" in capsys.readouterr().err
    assert (folder / "config.json").read_bytes() == before


def test_an_interrupted_run_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(train.training, "train", lambda *args, **options: (None, State(epoch=3)))
    assert _call(*SMALL, f"--run_dir={tmp_path / 'run'}") == app.INTERRUPTED
    assert f"--run_dir={tmp_path / 'run'} --resume" in capsys.readouterr().out


@pytest.mark.parametrize(
    "mistake, word",
    [
        ("--augment=crop+flip+jitter", "jitter"),
        ("--num_train_examples=100000", "100000"),
        ("--validation=0.00001", "validation"),
        ("--train_only=hed", "hed"),
        ("--model=tisode_cnn --loss=steady", "has none"),
    ],
)
def test_a_mistake_that_the_data_or_the_model_show_costs_no_run_and_makes_none(tmp_path, capsys, mistake, word):
    run = Run.create(tmp_path / "good", {"model": {"name": "oon"}})
    run.model_path.write_text("precious")
    for name in ("good", "new"):
        assert _call(*SMALL, *mistake.split(), f"--run_dir={tmp_path / name}", "--overwrite") == app.USAGE
        assert word in capsys.readouterr().err
    assert run.model_path.read_text() == "precious" and not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_channel_that_never_varies_is_found_before_the_folder_is_made(tmp_path, monkeypatch, capsys, value):
    images = [(np.full((16, 28, 28, 1), value, np.float32), np.zeros(16, np.int64))] * 3
    monkeypatch.setattr(training.Recipe, "batches", lambda *arguments, **options: images)
    assert _call(*SMALL, f"--run_dir={tmp_path / 'new'}") == app.FAILED
    assert "never varies" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_folder_that_is_taken_is_told_before_any_data_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "train", lambda *arguments, **options: pytest.fail("began to train"))
    Run.create(tmp_path, {"model": {"name": "oon"}})
    assert _call(*SMALL, f"--run_dir={tmp_path}") == app.FAILED
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, value",
    [
        ("weight_decay", 1e39),
        ("learning_rate", 1e39),
        ("epochs", 2**31),
        ("batch_size", 2**31),
        ("max_updates", 2**31),
        ("num_train_examples", 2**31),
        ("seed", 2**32),
    ],
)
def test_a_recipe_takes_no_number_that_does_not_fit(name, value):
    with pytest.raises(UsageError, match=f"{name} is .*at most"):
        training.Recipe("oon", "mnist_5k", **{name: value})


def test_a_precision_is_the_layers_and_float16_scales_the_loss():
    recipe = training.Recipe("resnet10", "mnist_5k", mixed_precision="float16", model_options={"filters": 4})
    assert recipe.make_model().get_layer("stem").dtype_policy.name == "mixed_float16"
    assert isinstance(recipe.make_optimizer(), keras.optimizers.LossScaleOptimizer)
    assert keras.config.dtype_policy().name == "float32"


def _recipe(path):
    found = []
    status = app.call(
        lambda argv: found.append(recipes.make_recipe(train.FLAGS)), train.FLAGS, ["train", f"--flagfile={path}"]
    )
    assert status == app.OK
    return found[0]


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
@pytest.mark.parametrize("model", ["res", "mix", "oon"])
def test_wifs_recipes_are_the_published_ones(model, dataset):
    recipe = _recipe(CONFIGS / "wifs2019" / f"{dataset}_{model}.cfg")
    large = dataset == "cifar10"
    assert (recipe.model, recipe.dataset) == (model, dataset)
    assert recipe.model_options["filters"] == (256 if large else 64) and recipe.model_options["dropout"] == 0.5
    assert (recipe.learning_rate, recipe.momentum, recipe.weight_decay) == (0.1, 0.9, 1e-4)
    assert (recipe.schedule, recipe.factor, recipe.batch_size) == ("plateau", 0.1, 128)
    assert (recipe.epochs, recipe.patience) == ((250, 15) if large else (25, 5))
    assert recipe.augment == ("crop+flip+jitter" if large else "none")
    assert (recipe.normalization != "none") == large


@pytest.mark.parametrize("path", sorted((CONFIGS / "cut").glob("*.cfg")), ids=lambda path: path.stem)
def test_a_cut_recipe_says_of_which_and_keeps_its_model(path):
    text = path.read_text()
    (base,) = [line.split()[-1].rstrip(".") for line in text.splitlines() if line.startswith("# Everything else is ")]
    cut, full = _recipe(path), _recipe(CONFIGS.parent / base)
    said = text.replace("\n# ", " ")
    assert (cut.model, cut.dataset, cut.augment) == (full.model, full.dataset, full.augment)
    batches = f"batches of {cut.batch_size} where it has {full.epochs} of {full.batch_size}"
    assert cut.batch_size == full.batch_size or batches in said
    assert cut.epochs < full.epochs and f"{cut.epochs} epochs" in said
    assert cut.schedule == "cosine" or len(cut.milestones) == 2


def test_msml_recipes_are_the_published_ones():
    found = {path.stem: _recipe(path) for path in (CONFIGS / "msml2022").glob("*.cfg")}
    names = {"sonet", "soblock_resnet10", "resnet10", "wide_resnet", "soblock_wide_resnet", "odenet_tq"}
    assert {recipe.model for recipe in found.values()} == names
    for recipe in found.values():
        assert (recipe.learning_rate, recipe.weight_decay, recipe.batch_size) == (0.01, 0.0, 100)
        assert (recipe.schedule, recipe.milestones, recipe.epochs) == ("steps", (150, 300), 350)
    for width in (32, 64):
        for weight in (1, 6):
            loss = found[f"resnet10_trades_{weight}_{width}"].make_loss()
            assert (loss.inverse_lambda, loss.eps, loss.step_size, loss.steps) == (weight, 0.031, 0.031 / 4, 10)
        for model in ("sonet", "soblock_resnet10"):
            recipe = found[f"{model}_{width}"]
            assert (recipe.model_options["filters"], recipe.model_options["tol"]) == (width, 0.1)


def test_recipes_of_stable_odes_are_the_published_ones():
    tisode, odenet, cnn = (_recipe(CONFIGS / "iclr2020" / f"tisode{name}.cfg") for name in ("", "_odenet", "_cnn"))
    for recipe, steps, loss in ((tisode, 20, "steady"), (odenet, 10, "cross_entropy"), (cnn, None, "cross_entropy")):
        assert (recipe.model_options["num_steps"], recipe.loss, recipe.augment) == (steps, loss, "noise")
        assert (recipe.optimizer, recipe.learning_rate, recipe.weight_decay) == ("adam", 1e-3, 5e-4)
        assert (recipe.milestones, recipe.factor, recipe.epochs) == ((30, 60, 90), 0.2, 100)
    features, dynamics, head = (
        _recipe(CONFIGS / "neurips2021" / f"mnist_sodef{name}.cfg") for name in ("_features", "_dynamics", "")
    )
    assert [recipe.train_only for recipe in (features, dynamics, head)] == [[], ["ode"], ["logits"]]
    assert (features.learning_rate, dynamics.learning_rate, head.learning_rate) == (1e-4, 1e-2, 1e-2)
    assert (dynamics.loss, dynamics.batch_size, dynamics.epochs) == ("lyapunov", 32, 15)
    assert {recipe.optimizer for recipe in (features, dynamics, head)} == {"adam"}


@pytest.mark.parametrize("name, value", [("epochs", 5.5), ("epochs", None), ("schedule", "linear"), ("tol", "x")])
def test_a_config_whose_flags_cannot_be_is_named(monkeypatch, tmp_path, capsys, name, value):
    monkeypatch.setattr(train.training, "train", lambda *arguments, **options: pytest.fail("trained"))
    config = {"model": {"name": "oon"}, "dataset": {"name": "mnist_5k"}, "flags": {name: value}}
    Run.create(tmp_path / "run", config)
    assert _call("--resume", f"--run_dir={tmp_path / 'run'}") == app.FAILED
    error = capsys.readouterr().err
    assert f"corrupt: flags.{name} is {value!r}" in error and "config.json" in error and error.count("\n") == 1
