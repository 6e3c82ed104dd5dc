"""LyaNet: its size, and its dynamics by the program's formula, one state at a time."""

import keras
import numpy as np
import pytest

import tfode_adv as ta
from tfode_adv.errors import UsageError
from tfode_adv.layers import SimplexDynamics
from tfode_adv.published import attacked_solver_of

random = np.random.default_rng(0)


def _by_hand(dynamics, h, condition):
    """The formula as it stands in the program, of one state."""
    (w1, b1), (w2, b2) = ([w.numpy() for w in each.weights] for each in (dynamics.hidden, dynamics.direction))

    def leaky(v):
        return np.where(v > 0, v, 0.25 * v)

    v = leaky(condition.reshape(dynamics.units, dynamics.units) @ leaky(h @ w1 + b1)) @ w2 + b2
    direction = v / np.linalg.norm(v)
    ahead = np.where(np.eye(len(h)), 15.0, -15.0) - h
    shares = np.exp(ahead @ direction - np.max(ahead @ direction))
    distances = np.linalg.norm(ahead, axis=1)
    return 100 * np.log(15 * np.sqrt(len(h))) * np.mean(distances * shares / shares.sum()) * direction


def test_it_is_as_large_as_the_programs():
    model = ta.models.build("lyanet")
    # torchvision's ResNet18 for one channel with 16,384 outputs; then 10 to 128 to 10, and the PReLU's one number.
    features, matrix, dynamics = 11_170_240, 512 * 16_384 + 16_384, 11 * 128 + 129 * 10 + 1
    assert sum(np.prod(w.shape) for w in model.trainable_weights) == features + matrix + dynamics
    block = model.get_layer("ode")
    assert (block.solver, block.tol) == ("dopri5", 1e-3)


def test_the_dynamics_is_the_programs():
    keras.utils.set_random_seed(0)
    dynamics = SimplexDynamics(4, units=3)
    h, condition = random.normal(0, 10, (2, 5, 4)).astype(np.float32), random.normal(size=(2, 9)).astype(np.float32)
    slopes = dynamics(h, condition)
    for image in range(2):
        for state in range(5):
            expected = _by_hand(dynamics, h[image, state], condition[image])
            np.testing.assert_allclose(slopes[image, state], expected, rtol=2e-3, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_allclose(dynamics(h[:, 2], condition), slopes[:, 2], rtol=1e-4)
    far = dynamics(1e30 * h[:, 2], condition)
    assert np.all(np.isfinite(far)) and np.all(np.linalg.norm(far / 1e30, axis=-1) > 10)
    assert np.any(dynamics(h, condition, training=True) != slopes)


def test_the_logits_start_at_zero_and_the_image_moves_them():
    keras.utils.set_random_seed(0)
    model = ta.models.build("lyanet", filters=4, blocks=(1,), num_classes=3, solver="euler", num_steps=1)
    x = random.uniform(size=(2, 28, 28, 1)).astype(np.float32)
    features = keras.Model(model.input, model.get_layer("matrix").output)
    slopes = model.get_layer("ode").dynamics(np.zeros((2, 3), np.float32), features(x))
    np.testing.assert_allclose(model(x), slopes, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"classes": 1}, "classes is 1"), ({"units": 0}, "units is 0"), ({"dropout": 1.0}, "dropout is 1")],
)
def test_bad_values_are_one_clear_line(options, words):
    with pytest.raises(UsageError, match=words):
        SimplexDynamics(**({"classes": 3} | options))


def test_its_paper_attacked_another_solver_than_it_deployed():
    assert attacked_solver_of("lyanet") == {"solver": "rk4", "num_steps": 10}
    assert attacked_solver_of("oon") == attacked_solver_of("a model of one's own") == {}
