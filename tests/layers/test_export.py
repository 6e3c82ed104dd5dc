"""Models with a block leave Keras as any other: `model.export` and `tf.saved_model.save`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv.layers import ODEBlock

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "rk4", "num_steps": 2},
        {"solver": "heun2", "tol": 1e-2},
        {"solver": "heun2", "tol": 1e-2, "gradient": "backprop_steps"},
        {"solver": "rk4", "gradient": "adjoint"},
    ],
    ids=["fixed", "adaptive", "backprop_steps", "adjoint"],
)
def test_an_exported_model_computes_and_differentiates_as_before(options, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    dynamics = keras.Sequential([keras.layers.Dense(4, activation="tanh")])
    model = keras.Model(inputs, ODEBlock(dynamics, **options)(inputs))
    model.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    found = []
    for function in (model, loaded.serve):
        x = tf.constant(X)
        with tf.GradientTape() as tape:
            tape.watch(x)
            end = function(x)
        found.append([end, tape.gradient(end, x)])
    for before, after in zip(*found, strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_tensorflow_saves_a_model(tmp_path):
    block = ODEBlock(lambda h: -h, solver="rk4", num_steps=4)
    model = keras.Sequential([keras.Input((4,)), block])
    tf.saved_model.save(model, str(tmp_path / "saved"))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    (end,) = loaded.signatures["serving_default"](tf.constant(X)).values()
    np.testing.assert_allclose(end, np.exp(-1) * X, rtol=1e-2)
