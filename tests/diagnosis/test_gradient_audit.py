import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv.analysis import indicators
from tfode_adv.analysis.gradients import COLUMNS
from tfode_adv.diagnosis import gradient_audit
from tfode_adv.diagnosis.probe import Probe
from tfode_adv.layers import ODEBlock, record_statistics


def test_backprop_and_adjoint_are_the_losss_own_at_a_fine_tolerance(ode_probe, ode_images):
    x, y = ode_images
    # Few steps: the network's own second order method takes a hundred.
    fine = {"solver": "dopri5", "tol": 1e-5}
    sources = {name: {"gradient": name, **fine} for name in ("backprop", "adjoint")}
    found = gradient_audit.audit(ode_probe, x, y, sources, forward=fine)
    for name in sources:
        assert np.median(found.cosine[name]) > 0.999
        assert np.median(found.difference_cosine[name]) > 0.99
        assert found.uphill[name].mean() > 0.9
        assert np.median(found.relative_norm[name]) == pytest.approx(1, abs=0.01)
        assert found.reproduced[name].min() > 0.999
    assert 0 <= found.step_changes <= 1 and found.at_rest == 0
    assert all(len(row) == len(COLUMNS) for row in found.rows())


def test_images_at_rest_are_counted():
    """h' = -h stays where it is at a black image, and nowhere else."""
    block = ODEBlock(lambda t, h: -h, solver="heun2")
    model = keras.Sequential([keras.Input((2, 2, 1)), block, keras.layers.Flatten(), keras.layers.Dense(2)])
    x = np.concatenate([np.zeros([1, 2, 2, 1]), np.full([3, 2, 2, 1], 0.5)]).astype(np.float32)
    with record_statistics() as records:
        block(x)
    np.testing.assert_array_equal(records[0][1].at_rest > 0, [True, False, False, False])
    assert gradient_audit.audit(Probe(model), x, np.array([0, 1, 0, 1]), {"own": {}}).at_rest == 0.25


def test_a_quantisers_gradient_is_zero_and_says_nothing(masked, toy):
    x, y = toy[0][:10], toy[1][:10]
    found = gradient_audit.audit(Probe(masked), x, y, {"own": {}})
    assert found.step_changes is None and found.at_rest is None
    values = dict(zip(COLUMNS, found.rows()[0], strict=True))
    assert values["zero"] == 1 and values["not finite"] == 0
    assert values["cosine with finite differences"] == 0 and values["loss rises along it"] == 0


def test_a_gradient_that_is_zero_at_half_of_the_images_is_held_against_itself_at_the_others():
    x = np.concatenate([np.full([4, 4, 4, 1], 0.25), np.full([4, 4, 4, 1], 0.75)]).astype(np.float32)

    def trap(images):
        bright = tf.reduce_mean(images, (1, 2, 3), keepdims=True) > 0.5
        return tf.where(bright, tf.stop_gradient(images), images)

    found = gradient_audit.audit(margins(trap), x, np.zeros(8, np.int64), {"own": {}})
    values = dict(zip(COLUMNS, found.rows()[0], strict=True))
    assert values["zero"] == 0.5
    assert values["cosine with the first"] == pytest.approx(1) and values["same sign"] == 1


def margins(front):
    """Two logits, linear in what a front makes of the pixels."""
    slopes = tf.constant(np.linspace(-1, 1, 16).reshape(4, 4, 1), tf.float32)

    def model(x):
        score = tf.reduce_sum(front(x) * slopes, (1, 2, 3))
        return tf.stack([score, -score], -1)

    return Probe(model)


@pytest.mark.parametrize(
    "front, local, far",
    [
        (lambda x: x, True, True),
        # Outside [0, 1] this is no number.
        (lambda x: tf.sqrt(x + 1e-3), True, True),
        (lambda x: x + tf.stop_gradient(tf.round(20 * x) / 20 - x), True, True),
        (lambda x: x + 0.02 * tf.sin(300 * x), True, False),
        (lambda x: tf.stop_gradient(2 * x) - x, False, False),
    ],
    ids=["linear", "root", "straight-through", "ripple", "false"],
)
def test_a_gradient_is_right_at_the_image_at_the_attacks_scale_or_not_at_all(front, local, far):
    x = np.random.default_rng(0).uniform(size=(20, 4, 4, 1)).astype(np.float32)
    x[:, 0, 0] = 0.0
    found = gradient_audit.audit(margins(front), x, np.zeros(20, np.int64), {"own": {}}, eps=0.1)
    assert (np.nanmedian(found.difference_cosine["own"]) > 0.5) == local
    assert (np.nanmedian(found.attack_cosine["own"]) > 0.5) == far
    assert found.varies.all()


@pytest.mark.parametrize(
    "front, vanishes",
    [
        (lambda x: x, False),
        # At black, the kink: no derivative there, and one a step aside.
        (tf.nn.relu, False),
        # Pixels without a derivative have no influence either.
        (lambda x: tf.nn.relu(x - 0.5), False),
        (lambda x: tf.sigmoid(200.0 * (x - 0.3)), True),
        # As everything does that rounds, it has none at all: that is another finding.
        (lambda x: tf.round(x * 4), False),
    ],
)
def test_derivatives_vanish_where_pixels_without_one_change_the_loss(front, vanishes):
    """Pixels from black to a fifth; a sigmoid as steep as a stair lies within their reach."""
    x = np.random.default_rng(0).choice([0.0, 0.1, 0.2], size=(20, 4, 4, 1)).astype(np.float32)
    x[:, 0, 0], x[:, 3, 3] = 0.29, 0.8
    found = gradient_audit.audit(margins(front), x, np.zeros(20, np.int64), {"own": {}}, eps=0.2)
    assert indicators.vanishing_gradients(found.blind).passed != vanishes
    assert np.median(found.blind) > 0.5 if vanishes else found.blind.max() < 0.01


def test_a_constant_models_zero_gradient_is_no_sign():
    x = np.random.default_rng(0).uniform(size=(6, 4, 4, 1)).astype(np.float32)
    found = gradient_audit.audit(margins(lambda x: 0 * x), x, np.zeros(6, np.int64), {"own": {}})
    assert not found.varies.any() and np.isnan(found.difference_cosine["own"]).all()


def test_gradients_of_single_runs_are_held_against_each_other():
    """Those of eight runs' mean agree where those that an attacker's calls get do not."""

    def model(x):
        slope = 1 + tf.random.normal(tf.shape(x))
        return tf.reshape(x * slope, [-1, 16])

    def summed(x):
        return tf.pad(tf.reduce_sum(model(x), -1, keepdims=True), [[0, 0], [0, 1]])

    probe = Probe(summed)
    probe.random, probe.draws = True, 8
    tf.random.set_seed(0)
    x = np.random.default_rng(0).uniform(size=(20, 4, 4, 1)).astype(np.float32)
    found = gradient_audit.audit(probe, x, np.zeros(20, np.int64), {"own": {}})
    # In expectation 1 / 2, of the mean of eight 8 / 9.
    assert 0.35 < found.reproduced["own"].mean() < 0.65
    assert found.difference_cosine["own"].shape == (20,)
