"""Gradients in half precision: the steps read rounded logits, what counts is said in full precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfode_adv as ta
from tfode_adv import attacks

IMAGES = np.random.default_rng(0).random((24, 12, 12, 1), np.float32)
HALF = attacks.Through(precision="bfloat16")


@pytest.fixture(scope="module")
def network():
    """Untrained, but with every class among its answers."""
    keras.utils.set_random_seed(1)
    model = ta.models.build("oon", (12, 12, 1), filters=8, num_classes=4, solver="rk4", num_steps=2)
    model.get_layer("logits").bias.assign_sub(model(IMAGES).numpy().mean(0))
    return model


@pytest.fixture(scope="module")
def images(network):
    return IMAGES, network(IMAGES).numpy().argmax(1)


def gradient_along(source, network, x, y):
    def loss(logits):
        return -tf.gather(logits, y, batch_dims=1)

    _, _, gradient = source.differentiate(lambda x: network(x, training=False), loss, tf.constant(x))
    return gradient.numpy().reshape(len(x), -1)


def test_the_gradient_is_the_exact_one_s_but_for_rounding(network, images):
    half, exact = (gradient_along(source, network, *images) for source in (HALF, attacks.Through("backprop")))
    cosine = (half * exact).sum(1) / np.linalg.norm(half, axis=1) / np.linalg.norm(exact, axis=1)
    assert np.median(cosine) > 0.98 and cosine.min() > 0.8 and not np.array_equal(half, exact)


def test_it_turns_as_many_and_every_success_is_one_in_full_precision(network, images):
    x, y = images
    found = attacks.PGD(eps=0.05, steps=10, source=HALF)(network, x, y)
    exact = attacks.PGD(eps=0.05, steps=10)(network, x, y)
    assert exact.success.sum() > 4 and abs(int(found.success.sum()) - int(exact.success.sum())) <= 2
    said = network(found.x_adv).numpy()
    np.testing.assert_array_equal(said.argmax(1) != y, found.success)
    np.testing.assert_allclose(found.answers.logits, said, atol=1e-5)
    # One pass a step, which is the query too.
    assert (found.gradients <= 10).all() and found.gradients.max() > 2


class Constant(keras.layers.Layer):
    """dh/dt = 1.003, which bfloat16 rounds to 1."""

    def build(self, shape):
        self.slope = self.add_weight(shape=(), initializer=keras.initializers.Constant(1.003), name="slope")

    def call(self, h):
        return 0 * h + tf.convert_to_tensor(self.slope)


def test_rounding_turns_no_image():
    image = keras.Input((1,))
    state = ta.layers.ODEBlock(Constant(), solver="euler")(image)
    model = keras.Model(image, keras.layers.Dense(2)(state))
    # Class 0 for h(1) = x + 1.003 above 1.5015, where rounding makes it x + 1.
    model.layers[-1].set_weights([np.float32([[1, 0]]), np.float32([-1.5015, 0])])
    x, y = np.float32([[0.5]]), [0]
    with ta.layers.solver_settings(precision="bfloat16"):
        assert model(x).numpy().argmax() == 1
    found = attacks.PGD(eps=1e-5, steps=3, source=HALF)(model, x, y)
    assert model(x).numpy().argmax() == 0 and not found.success[0]
    assert attacks.PGD(eps=0.01, steps=3, source=HALF)(model, x, y).success[0]


def test_layers_are_left_as_they_were(network, images):
    block = ta.models.ode_blocks(network)[0]
    before = network(images[0]).numpy()
    with ta.layers.solver_settings(precision="bfloat16"):
        half = network(images[0]).numpy()
    assert not np.array_equal(half, before) and np.abs(half - before).max() < 0.05 * np.abs(before).max()
    assert {weight.dtype for weight in block.weights} == {"float32"} and block.dynamics.compute_dtype == "float32"
    np.testing.assert_array_equal(network(images[0]), before)


def test_what_has_no_precision_of_its_own_to_change_is_refused():
    function = ta.layers.ODEBlock(lambda t, h: -h, precision="bfloat16")
    with pytest.raises(ta.errors.UsageError, match="precision is 'bfloat16', but the dynamics is no Keras layer"):
        function(tf.ones([1, 2]))
    double = ta.layers.ODEBlock(keras.layers.Dense(2, dtype="float64"), precision="bfloat16", dtype="float64")
    with pytest.raises(ta.errors.UsageError, match="but weights of the dynamics are float64"):
        double(tf.ones([1, 2], tf.float64))
    with pytest.raises(
        ta.errors.UsageError, match="gradient_precision is 'int8', but must be one of: float32, bfloat16"
    ):
        attacks.Through(precision="int8")


def test_an_evaluation_tells_it_apart():
    from tfode_adv.evaluation.configuration import Configuration
    from tfode_adv.evaluation.results import Result
    from tfode_adv.evaluation.subject import make_attack

    given = Configuration("m", "mnist", attack="pgd", norm="linf", eps=0.1, gradient="backprop", tol=1.0, seed=0)
    half = Configuration(**{**given.as_dict(), "gradient_precision": "bfloat16"})
    assert half.digest != given.digest and half.clean == given.clean
    assert make_attack(half, twin=object()).source == attacks.Through("backprop", precision="bfloat16")
    assert Result.gradient.fget(type("R", (), {"configuration": half})) == "backprop (precision bfloat16)"
