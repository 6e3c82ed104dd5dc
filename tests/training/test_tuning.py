"""The search, with a training whose error is known in closed form in place of a real one."""

import dataclasses
import math
import types

import keras
import numpy as np
import pytest

from tfode_adv import data
from tfode_adv.cli import app, tune
from tfode_adv.errors import RunError, UsageError
from tfode_adv.training import Recipe, tuning
from tfode_adv.training.choices import OBJECTIVES
from tfode_adv.training.loop import Diverged
from tfode_adv.training.state import State

FLAGS = ["--model=oon", "--learning_rates=0.001,1", "--filter_choices=4,8", "--epochs=4"]


@pytest.fixture
def trained(monkeypatch):
    """The recipes trained so far; the best one has rate 0.1 and 8 filters."""
    recipes = []

    def train(recipe, run, **options):
        recipes.append(dataclasses.replace(recipe))
        run(True).path.mkdir(parents=True, exist_ok=True)
        error = abs(math.log10(recipe.learning_rate) + 1) / 4 + 0.2 * (recipe.model_options["filters"] == 4)
        return None, State(best_error=error, best_epoch=0, finished=True)

    monkeypatch.setattr(tuning, "train", train)
    # Collecting the garbage of a whole test run takes a minute a trial; there is no model here to clear.
    monkeypatch.setattr(tuning.keras.utils, "clear_session", lambda: None)
    return recipes


def _call(folder, *arguments):
    return app.call(tune.main, tune.FLAGS, ["tune", *FLAGS, f"--tune_dir={folder}", *arguments])


@pytest.mark.parametrize("method", ["random", "bayesian", "hyperband"])
def test_the_winner_is_the_best_of_the_trials_as_a_flag_file(trained, tmp_path, capsys, method):
    assert _call(tmp_path, f"--method={method}", "--trials=8", "--batch_size=16") == app.OK
    best = min(trained, key=lambda r: abs(math.log10(r.learning_rate) + 1) / 4 + (r.model_options["filters"] == 4))
    text = (tmp_path / "best.cfg").read_text()
    assert text in capsys.readouterr().out
    lines = text.splitlines()[1:]
    assert f"--learning_rate={best.learning_rate}" in lines and f"--filters={best.model_options['filters']}" in lines
    assert "--batch_size=16" in lines and "--epochs=4" in lines and not any("trials" in line for line in lines)
    if method == "hyperband":
        assert {recipe.epochs for recipe in trained} >= {4}
    else:
        assert len(trained) == 8 and {recipe.epochs for recipe in trained} == {4}

    # The same command again finds the search done; another search may not use the folder.
    before = len(trained)
    assert _call(tmp_path, f"--method={method}", "--trials=8", "--batch_size=16") == app.OK
    assert len(trained) == before and (tmp_path / "best.cfg").read_text() == text
    assert _call(tmp_path, f"--method={method}", "--trials=8") == app.USAGE
    assert "another --tune_dir" in capsys.readouterr().err


def test_an_interrupted_search_goes_on_where_it_stopped(trained, tmp_path, monkeypatch):
    train, left = tuning.train, [3]

    def interrupted(recipe, run, **options):
        if not left[0]:
            return None, State(finished=False)
        left[0] -= 1
        return train(recipe, run, **options)

    monkeypatch.setattr(tuning, "train", interrupted)
    assert _call(tmp_path, "--trials=5") == app.INTERRUPTED
    monkeypatch.setattr(tuning, "train", train)
    assert _call(tmp_path, "--trials=5") == app.OK
    assert len(trained) == 5 and len({recipe.learning_rate for recipe in trained}) == 5


def test_a_search_can_be_given_more_trials_but_not_fewer(trained, tmp_path):
    assert _call(tmp_path, "--trials=3") == app.OK
    assert _call(tmp_path, "--trials=12") == app.OK
    assert len(trained) == 12 and len({recipe.learning_rate for recipe in trained}) == 12
    assert _call(tmp_path, "--trials=3") == app.USAGE and _call(tmp_path, "--trials=12") == app.OK
    assert len(trained) == 12


def test_the_same_seed_draws_the_same_trials(trained, tmp_path):
    for name in ("one", "other"):
        assert _call(tmp_path / name, "--trials=2", "--seed=0") == app.OK
    assert [recipe.learning_rate for recipe in trained[:2]] == [recipe.learning_rate for recipe in trained[2:]]


def _failing(error, when=lambda recipe: True):
    train = tuning.train

    def failing(recipe, run, **options):
        if when(recipe):
            raise error
        return train(recipe, run, **options)

    return failing


@pytest.mark.parametrize("method", ["random", "bayesian", "hyperband"])
def test_trials_that_diverge_are_told_in_a_line_and_do_not_win(trained, tmp_path, monkeypatch, capsys, method):
    failing = _failing(Diverged("the loss is nan"), lambda recipe: recipe.model_options["filters"] == 8)
    monkeypatch.setattr(tuning, "train", failing)
    assert _call(tmp_path, "--trials=8", f"--method={method}") == app.OK
    printed, errors = capsys.readouterr()
    assert "failed: the loss is nan\n" in printed and not errors
    assert trained and all(recipe.model_options["filters"] == 4 for recipe in trained)
    assert "--filters=4" in (tmp_path / "best.cfg").read_text()


def test_a_search_whose_trials_all_diverge_goes_to_its_end_and_says_so_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tuning, "train", _failing(Diverged("the loss is nan")))
    assert _call(tmp_path, "--trials=5") == app.FAILED
    printed, errors = capsys.readouterr()
    assert printed.count("failed: the loss is nan") == 5
    assert errors.count("\n") == 1 and "no trial" in errors and not (tmp_path / "best.cfg").exists()


@pytest.mark.parametrize(
    "error, status",
    [
        (RunError("cannot write: the disk is full"), app.FAILED),
        (UsageError("distribute is 'mirrored', but there is no device"), app.USAGE),
    ],
)
def test_a_failure_that_is_not_the_trials_own_ends_the_search_which_goes_on_later(
    trained, tmp_path, monkeypatch, capsys, error, status
):
    train = tuning.train
    monkeypatch.setattr(tuning, "train", _failing(error))
    assert _call(tmp_path, "--trials=2") == status
    assert capsys.readouterr().err == f"tune: {error}\n"
    monkeypatch.setattr(tuning, "train", train)
    assert _call(tmp_path, "--trials=2") == app.OK and len(trained) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--learning_rates=1"],
        ["--learning_rates=1,0.1"],
        ["--learning_rates=0,1"],
        ["--tols=0,1"],
        ["--dropouts=0.5,2"],
        ["--filter_choices=a"],
        ["--filter_choices=8,33"],
        ["--validation=0", "--schedule=constant"],
        ["--num_train_examples=100000"],
        ["--robust_weight=2"],
        ["--robust_eps=0"],
        ["--distribute=multi_worker"],
    ],
    ids=" ".join,
)
def test_bad_values_are_one_line(trained, tmp_path, capsys, arguments):
    assert _call(tmp_path / "new", *arguments) == app.USAGE
    assert capsys.readouterr().err.count("\n") == 1 and not trained
    assert not (tmp_path / "new" / "search.json").exists()


def test_nothing_to_search_is_a_mistake():
    with pytest.raises(UsageError, match="nothing to search"):
        tuning.Space()


def test_robust_accuracy_is_that_of_validation_images_under_attack():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    recipe = Recipe("oon", "mnist_5k", batch_size=32)
    x, y = data.arrays("mnist_5k", "validation", 32)
    model.layers[-1].kernel.assign(x.reshape(32, -1).T @ np.eye(10)[y] / 100)
    clean = np.mean(model.predict(x, verbose=0).argmax(-1) == y)
    scores = [
        tuning.Objective("robust", eps=eps, steps=2, num_examples=32).score(model, 0.5, recipe) for eps in (1e-6, 0.3)
    ]
    assert scores[0]["robust"] == pytest.approx(clean) and clean > 0.5
    assert scores[1]["robust"] < clean / 2 and scores[1]["accuracy"] == 0.5


def test_scores_are_weighted_sums(monkeypatch):
    monkeypatch.setattr(tuning.Objective, "_robust_accuracy", lambda *arguments: 0.25)
    recipe = Recipe("oon", "mnist_5k")
    scores = {name: tuning.Objective(name, 0.2).score(None, 0.75, recipe)["score"] for name in OBJECTIVES}
    assert scores == pytest.approx({"accuracy": 0.75, "robust": 0.25, "weighted": 0.65})


def test_of_equals_the_first_trial_wins_in_whatever_order_they_are_read(tmp_path):
    plan = Recipe(model="oon", dataset="mnist_5k", epochs=1)
    space = tuning.Space(filters=[4, 8])
    search = tuning.Search(plan, space, tuning.Objective(), tmp_path)

    def trial(name, score, filters):
        values = types.SimpleNamespace(values={"filters": filters})
        return types.SimpleNamespace(trial_id=name, score=score, hyperparameters=values)

    for order in ([0, 1, 2, 3], [3, 1, 2, 0]):
        made = [trial("09", 0.5, 1), trial("10", 0.7, 2), trial("9", 0.7, 3), trial("11", None, 4)]
        search.oracle.trials = {made[i].trial_id: made[i] for i in order}
        assert search.winner() == ({"filters": 3}, 0.7)


@pytest.mark.parametrize("name", ["search.json", "search/oracle.json"])
def test_a_search_whose_files_are_damaged_is_named(trained, tmp_path, capsys, name):
    assert _call(tmp_path, "--trials=1") == app.OK
    (tmp_path / name).write_text("[]")
    assert _call(tmp_path, "--trials=2") == app.FAILED
    error = capsys.readouterr().err
    assert str(tmp_path) in error and error.count("\n") == 1
