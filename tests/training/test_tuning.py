"""The search, with a training whose error is known in closed form in place of a real one."""

import dataclasses
import math

import pytest

from tfode_adv.cli import app, tune
from tfode_adv.errors import RunError, UsageError
from tfode_adv.training import Recipe, tuning
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
        return None, State(best_error=error, finished=True)

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


def test_trials_that_fail_are_told_and_do_not_win(trained, tmp_path, monkeypatch, capsys):
    train = tuning.train

    def sometimes(recipe, run, **options):
        if recipe.model_options["filters"] == 8:
            raise RunError("the loss is nan")
        return train(recipe, run, **options)

    monkeypatch.setattr(tuning, "train", sometimes)
    assert _call(tmp_path, "--trials=4") in (app.OK, app.FAILED)
    assert "the loss is nan" in capsys.readouterr().out
    assert all(recipe.model_options["filters"] == 4 for recipe in trained)


@pytest.mark.parametrize(
    "arguments", [["--learning_rates=1"], ["--learning_rates=1,0.1"], ["--filter_choices=a"], ["--robust_weight=2"]]
)
def test_bad_values_are_one_line(trained, tmp_path, capsys, arguments):
    assert _call(tmp_path / "new", *arguments) == app.USAGE
    assert capsys.readouterr().err.count("\n") == 1 and not trained


def test_nothing_to_search_is_a_mistake():
    with pytest.raises(UsageError, match="nothing to search"):
        tuning.Space()


def test_scores_are_weighted_sums(monkeypatch):
    monkeypatch.setattr(tuning.Objective, "_robust_accuracy", lambda *arguments: 0.25)
    recipe = Recipe("oon", "mnist_5k")
    scores = {name: tuning.Objective(name, 0.2).score(None, 0.75, recipe)["score"] for name in tuning.OBJECTIVES}
    assert scores == pytest.approx({"accuracy": 0.75, "robust": 0.25, "weighted": 0.65})
