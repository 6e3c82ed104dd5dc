import numpy as np
import pytest
import tensorflow as tf

from tfode_adv.diagnosis import planted_examples
from tfode_adv.diagnosis.probe import Probe

BUDGET = {"eps": 0.1, "step_size": 0.0125, "steps": 20}


@pytest.mark.parametrize("norm, scale", [("linf", 1.0), ("l2", 7.0), ("l2rms", 1.0)])
def test_an_honest_networks_planted_examples_are_found_and_not_by_chance(honest, toy, norm, scale):
    budget = {**BUDGET, "eps": scale * 0.1, "step_size": scale * 0.0125}
    found = planted_examples.run(Probe(honest), toy[0][:20], norm=norm, **budget)
    assert found.planted.mean() > 0.9
    assert found.found[found.planted].mean() >= 0.95
    assert found.by_chance < 0.3


def test_an_attack_on_a_masked_network_misses_them(masked, toy):
    found = planted_examples.run(Probe(masked), toy[0][:20], norm="linf", **BUDGET)
    assert found.planted.mean() > 0.9
    assert found.found.mean() < 0.5


def test_readout_puts_the_planted_point_alone_beyond_the_boundary():
    rng = np.random.default_rng(0)
    inside, point = rng.standard_normal((30, 40)), 3 * rng.standard_normal(40)
    weights, bias = planted_examples.readout(inside, point, closeness=0.75)
    inner = inside @ weights + bias
    assert (inner < 0).all() and point @ weights + bias > 0
    assert point @ weights + bias - inner.max() == pytest.approx(2)
    assert point @ weights + bias == pytest.approx(0.5)


def test_a_point_among_the_others_cannot_be_planted():
    rng = np.random.default_rng(0)
    inside = rng.standard_normal((200, 2))
    assert planted_examples.readout(inside, inside.mean(axis=0), closeness=0.5) is None
    assert planted_examples.readout(np.ones((4, 2)), np.ones(2), closeness=0.5) is None


def test_a_model_without_a_dense_layer_is_read_from_its_logits(toy):
    weights = np.random.default_rng(0).normal(size=(49, 60)).astype(np.float32)
    probe = Probe(lambda x: tf.reshape(x, [-1, 49]) @ weights)
    found = planted_examples.run(probe, toy[0][:5], norm="linf", **BUDGET)
    assert found.planted.all() and found.found.all()
