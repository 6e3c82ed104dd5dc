import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import layers
from tfode_adv.analysis.travel import Travel
from tfode_adv.diagnosis import trajectories
from tfode_adv.diagnosis.probe import Probe
from tfode_adv.errors import UsageError
from tfode_adv.layers import ODEBlock

RATE = 0.7


@pytest.fixture(scope="module")
def flows():
    """Two blocks: h' = h, then a pair of states, of which one grows and one stands still."""
    image = keras.Input((2, 2, 1))
    fixed = {"solver": "rk4", "num_steps": 8}
    state = layers.ODEBlock(lambda t, h: RATE * h, name="first", **fixed)(keras.layers.Flatten()(image))
    pair = layers.ODEBlock(lambda t, h: (RATE * h[0], 0 * h[1]), name="second", **fixed)((state, state))
    return Probe(keras.Model(image, keras.layers.Dense(2)(pair[0])), batch_size=4)


@pytest.fixture(scope="module")
def travels(flows):
    rng = np.random.default_rng(0)
    clean = rng.uniform(size=(6, 2, 2, 1)).astype(np.float32)
    adversarial = np.clip(clean + 0.1 * rng.standard_normal(clean.shape), 0, 1).astype(np.float32)
    labels = np.array([0, 0, 1, 1, 1, 3])
    found = trajectories.travel(flows, clean, adversarial, labels, tol=1e-5, num_times=6)
    return clean, adversarial, found


def test_distances_grow_as_the_dynamics_does(travels):
    clean, adversarial, (first, _) = travels
    start = np.linalg.norm((clean - adversarial).reshape(6, -1), axis=1)
    np.testing.assert_allclose(first.l2, start * np.exp(RATE * first.times)[:, None], rtol=1e-3)
    growth = first.growth()
    np.testing.assert_allclose(growth.rate, RATE, rtol=1e-2)
    assert growth.amplification == pytest.approx(np.exp(RATE), rel=1e-3)


def test_a_scaling_keeps_angles_and_relative_distances(travels):
    clean, adversarial, (first, _) = travels
    a, b = clean.reshape(6, -1), adversarial.reshape(6, -1)
    cosine = 1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(first.cosine, np.tile(cosine, (6, 1)), atol=1e-5)
    assert np.ptp(first.relative, axis=0).max() < 1e-3


def test_a_pair_of_states_is_one_vector_that_starts_where_the_block_before_ended(travels):
    _, _, (first, second) = travels
    assert (first.layer, second.layer) == ("first", "second")
    np.testing.assert_allclose(second.l2[0], np.sqrt(2) * first.l2[-1], rtol=1e-3)
    expected = first.l2[-1] * np.sqrt(1 + np.exp(2 * RATE))
    np.testing.assert_allclose(second.l2[-1], expected, rtol=1e-3)


def test_classes_average_to_the_whole(travels):
    _, _, (first, _) = travels
    classes = first.by_class()
    assert sorted(classes) == [0, 1, 3]
    whole = (2 * classes[0].l2 + 3 * classes[1].l2 + classes[3].l2) / 6
    np.testing.assert_allclose(whole, first.mean().l2, rtol=1e-5)


def test_where_the_perturbation_grows_most():
    times = np.linspace(0, 1, 5)
    l2 = np.array([[1.0], [1], [1], [4], [4]])
    found = Travel("block", times, l2, l2, l2, np.zeros(1)).growth()
    assert found.fastest == pytest.approx(0.625)
    assert found.amplification == pytest.approx(4)


def test_no_perturbation_does_not_grow():
    zero = np.zeros((3, 2))
    found = Travel("block", np.linspace(0, 1, 3), zero, zero, zero, np.zeros(2)).growth()
    assert found.fastest is None and found.amplification is None


def test_a_model_without_blocks_has_no_trajectories():
    probe = Probe(lambda x: tf.reduce_sum(x, axis=(1, 2)))
    with pytest.raises(UsageError, match="ODEBlock"):
        trajectories.travel(probe, np.zeros((1, 2, 2, 1)), np.zeros((1, 2, 2, 1)), np.zeros(1))


def test_a_block_with_a_condition_is_followed_under_its_own():
    image = keras.Input((3,))
    block = ODEBlock(lambda t, h, condition: -condition * h, tol=1e-6)
    probe = Probe(keras.Model(image, block(image, condition=0.5 * image)), 8)
    clean = np.random.default_rng(0).uniform(0.5, 1, (4, 3)).astype(np.float32)
    adversarial = clean + 0.1
    (found,) = trajectories.travel(probe, clean, adversarial, np.arange(4) % 3, tol=1e-6, num_times=3)
    ends = [images * np.exp(-0.5 * images) for images in (clean, adversarial)]
    np.testing.assert_allclose(found.l2[-1], np.linalg.norm(ends[1] - ends[0], axis=1), rtol=1e-3)
