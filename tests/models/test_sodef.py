"""SODEF and the network of its features: sizes, the fixed head, the dynamics by hand, one starting from the other."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfode_adv as ta
from tfode_adv.errors import UsageError
from tfode_adv.layers.initializers import SimplexCorners
from tfode_adv.run_folder import Run
from tfode_adv.training import warm_start

SMALL = {"input_shape": (8, 9, 1), "num_classes": 3, "filters": 4, "blocks": (1, 1)}


def test_size_and_solver_are_the_program_s():
    model = ta.models.build("sodef")
    # ResNet18 of one channel without its head, two dense layers, the dynamics, the head.
    parameters = 11_167_680 + 1_181_760 + 4_160 + 650
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == parameters
    (block,) = ta.models.ode_blocks(model)
    assert (block.solver, block.tol, block.gradient, block.final_time) == ("dopri5", 1e-5, "adjoint", 5.0)


@pytest.mark.parametrize("classes", [2, 10, 64])
def test_the_fixed_head_s_vectors_are_as_far_apart_as_can_be(classes):
    rows = SimplexCorners()((64, classes)).numpy().T
    np.testing.assert_allclose(rows @ rows.T, np.eye(classes) * (1 + 1 / (classes - 1)) - 1 / (classes - 1), atol=1e-6)


def test_more_classes_than_features_are_refused():
    with pytest.raises(UsageError, match="65 units has 64 inputs"):
        ta.models.build("sodef_features", **(SMALL | {"num_classes": 65}))


def test_the_fixed_head_is_not_trained_and_survives_saving(tmp_path):
    model = ta.models.build("sodef_features", **SMALL)
    assert not model.get_layer("separated").trainable_weights and model.get_layer("features").trainable_weights
    x = np.random.default_rng(0).random((2, 8, 9, 1), np.float32)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x), model(x))
    assert not again.get_layer("separated").trainable_weights


def test_dynamics_are_a_sine_of_a_dense_layer():
    dynamics = ta.layers.SineDynamics(3)
    h = tf.random.stateless_normal([5, 3], seed=[1, 2])
    slope = dynamics(h).numpy()
    kernel, bias = (weight.numpy() for weight in dynamics.weights)
    np.testing.assert_allclose(slope, np.sin(-(h.numpy() @ kernel + bias)), rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match="units is 0"):
        ta.layers.SineDynamics(0)


def test_sodef_starts_from_its_features_and_trains_what_it_is_told(tmp_path):
    features = ta.models.build("sodef_features", **SMALL)
    run = Run.create(tmp_path / "run", {"model": {"name": "sodef_features"}})
    run.finish(features)
    model = ta.models.build("sodef", **SMALL)
    taken, own = warm_start.take_weights(model, run.path)
    assert own == ["ode", "logits"] and "features" in taken
    warm_start.train_only(model, ["ode"])
    assert [weight.path for weight in model.trainable_weights] == [
        weight.path for weight in model.get_layer("ode").trainable_weights
    ]
    x = np.random.default_rng(0).random((2, 8, 9, 1), np.float32)
    start = keras.Model(model.input, model.get_layer("features").output)
    np.testing.assert_array_equal(start(x), keras.Model(features.input, features.get_layer("features").output)(x))
