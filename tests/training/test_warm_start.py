"""Weights of another run by the names of the layers, and layers that stay."""

import keras
import numpy as np
import pytest

from tests.training import tiny
from tfode_adv.errors import RunError, UsageError
from tfode_adv.run_folder import Run
from tfode_adv.training import warm_start


@pytest.fixture
def run(tmp_path):
    """A finished run of the tiny network."""
    made = Run.create(tmp_path / "run", {"model": {"name": "tiny"}})
    made.finish(_named(tiny.model()))
    return made.path


def _named(model, last="head"):
    for layer, name in zip(model.layers, ("conv", "norm", "relu", "flatten", "dropout", last), strict=True):
        layer.name = name
    return model


def test_layers_of_other_names_keep_their_own(run):
    model = _named(tiny.model(), last="another")
    for weight in model.weights:
        weight.assign(weight + 1)
    before = model.get_layer("another").get_weights()
    assert warm_start.take_weights(model, run) == (["conv", "norm"], ["another"])
    kept = Run.open(run).load_model()
    np.testing.assert_array_equal(model.get_layer("conv").get_weights()[0], kept.get_layer("conv").get_weights()[0])
    np.testing.assert_array_equal(model.get_layer("another").get_weights()[0], before[0])


def test_other_shapes_and_no_common_name_are_refused_and_nothing_is_taken(run):
    model = _named(tiny.model())
    for layer in model.layers:
        layer.name = f"my_{layer.name}"
    with pytest.raises(UsageError, match="no layer of .* is named as one of its: conv, norm"):
        warm_start.take_weights(model, run)
    wide = tiny.plain_model()
    wide.layers[-1].name = "head"
    before = wide.get_weights()
    with pytest.raises(UsageError, match=r"whose 'head' has weights \[\(16, 3\), \(3,\)\], but .*\[\(5, 3\), \(3,\)\]"):
        warm_start.take_weights(wide, run)
    for ours, theirs in zip(before, wide.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_layer_of_another_shape_may_start_anew_by_its_name(run):
    wide = tiny.model()
    wide.pop()
    wide.add(keras.layers.Dense(7))
    model = _named(wide)
    before = model.get_layer("head").get_weights()
    with pytest.raises(UsageError, match="layer to start anew .*'hed'.*head"):
        warm_start.take_weights(model, run, ["hed"])
    with pytest.raises(
        UsageError, match="start_anew is conv, norm, head, which leaves no layer that .*run' has weights"
    ):
        warm_start.take_weights(model, run, ["conv", "norm", "head"])
    assert warm_start.take_weights(model, run, ["head"]) == (["conv", "norm"], ["head"])
    np.testing.assert_array_equal(model.get_layer("head").get_weights()[0], before[0])


def test_an_unfinished_run_is_refused(tmp_path):
    Run.create(tmp_path / "run", {"model": {"name": "tiny"}})
    with pytest.raises(RunError, match="not finished"):
        warm_start.take_weights(tiny.model(), tmp_path / "run")


def test_only_the_named_layers_move_and_a_frozen_batch_norm_keeps_its_averages():
    model = _named(tiny.model())
    warm_start.train_only(model, ["head"])
    before = {layer.name: layer.get_weights() for layer in model.layers}
    tiny.train(model, epochs=1)
    moved = {name for name, old in before.items() if any(map(np.any, _changes(model.get_layer(name), old)))}
    assert moved - {"dropout"} == {"head"}


def _changes(layer, before):
    return [np.not_equal(new, old) for new, old in zip(layer.get_weights(), before, strict=True)]


@pytest.mark.parametrize(("names", "complaint"), [(["hed"], "layer to train .*'hed'.*head"), (["flatten"], "flatten")])
def test_a_layer_that_is_not_there_or_has_no_weights_is_refused(names, complaint):
    with pytest.raises(UsageError, match=complaint):
        warm_start.train_only(_named(tiny.model()), names)
