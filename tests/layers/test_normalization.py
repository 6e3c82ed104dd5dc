"""Group normalisation: its values and its hand-written gradient against the textbook formula."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv.errors import UsageError
from tfode_adv.layers import GroupNormalization, group_normalization

SHAPE, GROUPS = (3, 5, 4, 12), 4


def textbook(x, gamma, beta, groups, relu=False, epsilon=1e-5):
    grouped = tf.reshape(x, [-1, x.shape[1] * x.shape[2], groups, x.shape[3] // groups])
    mean = tf.reduce_mean(grouped, [1, 3], keepdims=True)
    variance = tf.reduce_mean((grouped - mean) ** 2, [1, 3], keepdims=True)
    y = tf.reshape((grouped - mean) / tf.sqrt(variance + epsilon), tf.shape(x)) * gamma + beta
    return tf.nn.relu(y) if relu else y


@pytest.fixture(scope="module")
def arrays():
    random = np.random.default_rng(0)
    x, upstream = random.normal(size=(2, *SHAPE))
    gamma, beta = random.normal(size=(2, SHAPE[-1]))
    return [tf.constant(value) for value in (x + 0.5, gamma, beta, upstream)]


def value_and_gradients(function, inputs, upstream):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
    return [y, *tape.gradient(y, inputs, upstream)]


@pytest.mark.parametrize("relu", [False, True])
def test_value_and_gradients_are_the_textbook_s(arrays, relu):
    *inputs, upstream = arrays
    ours = value_and_gradients(lambda *a: group_normalization(*a, GROUPS, relu=relu), inputs, upstream)
    theirs = value_and_gradients(lambda *a: textbook(*a, GROUPS, relu), inputs, upstream)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-10, atol=1e-10)


def test_second_derivatives_are_the_textbook_s(arrays):
    *inputs, upstream = arrays

    def squared_gradient(function):
        def total(*inputs):
            gradients = value_and_gradients(function, inputs, upstream)[1:]
            return sum(tf.reduce_sum(gradient**2) for gradient in gradients)

        return value_and_gradients(total, inputs[:2], None)[1:]

    ours = squared_gradient(lambda x, gamma: group_normalization(x, gamma, inputs[2], GROUPS))
    theirs = squared_gradient(lambda x, gamma: textbook(x, gamma, inputs[2], GROUPS))
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradient_within_a_compiled_loop(arrays, jit_compile):
    x, gamma, beta, upstream = (tf.cast(value, tf.float32) for value in arrays)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def descend(x):
        def step(i, x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = group_normalization(x, gamma, beta, GROUPS, relu=True)
            return i + 1, x - 0.1 * tape.gradient(y, x, upstream)

        return tf.while_loop(lambda i, x: i < 3, step, (0, x))[1]

    expected = x
    for _ in range(3):
        run = value_and_gradients(lambda x: textbook(x, gamma, beta, GROUPS, relu=True), [expected], upstream)
        expected -= 0.1 * run[1]
    np.testing.assert_allclose(descend(x), expected, rtol=1e-4, atol=1e-5)


def test_unknown_sizes_and_an_empty_batch(arrays):
    x, gamma, beta, _ = (tf.cast(value, tf.float32) for value in arrays)
    unknown = tf.TensorSpec([None, None, None, SHAPE[-1]])

    @tf.function(input_signature=[unknown], autograph=False)
    def normalize(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = group_normalization(x, gamma, beta, GROUPS)
        return y, tape.gradient(y, x)

    np.testing.assert_allclose(normalize(x)[0], textbook(x, gamma, beta, GROUPS), atol=1e-5)
    assert normalize(x[:0])[0].shape == normalize(x[:0])[1].shape == (0, *SHAPE[1:])


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_sums_in_float32(arrays, dtype):
    # 20 pixels of 3 channels near 30: their sum of squares is 54,000, which half precision cannot count to.
    x, gamma, beta, upstream = arrays
    x, upstream = tf.cast(x + 30, dtype), tf.cast(upstream, dtype)
    y, dx = value_and_gradients(lambda x: group_normalization(x, gamma, beta, GROUPS), [x], upstream)
    expected = textbook(tf.cast(x, tf.float64), gamma, beta, GROUPS)
    assert y.dtype == dx.dtype == dtype
    np.testing.assert_allclose(tf.cast(y, tf.float64), expected, atol=0.05)
    assert np.isfinite(tf.cast(dx, tf.float32)).all()


def test_a_mean_far_from_zero_costs_no_digits(arrays):
    x, gamma, beta, _ = arrays
    far = tf.cast(x + 1000, tf.float32)
    y = group_normalization(far, gamma, beta, GROUPS)
    np.testing.assert_allclose(y, textbook(tf.cast(far, tf.float64), gamma, beta, GROUPS), atol=2e-3)


def test_a_sample_does_not_see_its_neighbours(arrays):
    x, gamma, beta, _ = arrays
    spoiled = tf.concat([x[:1], x[1:2] * np.nan, x[2:] * np.inf], axis=0)
    alone = group_normalization(x[:1], gamma, beta, GROUPS)
    np.testing.assert_allclose(group_normalization(spoiled, gamma, beta, GROUPS)[:1], alone, rtol=1e-12)


def test_layer_saves_its_settings_and_fits_small_maps():
    layer = GroupNormalization(8, epsilon=1e-3, activation="relu")
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert (twin.groups, twin.epsilon, twin.activation) == (8, 1e-3, "relu")
    x = tf.random.stateless_normal([2, 3, 3, 3], seed=[0, 1])
    expected = textbook(x, 1.0, 0.0, 3, relu=True, epsilon=1e-3)
    np.testing.assert_allclose(twin(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, words",
    [({"groups": 0}, "groups is 0"), ({"epsilon": 0.0}, "epsilon is 0"), ({"activation": "tanh"}, "'tanh'")],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(UsageError, match=words):
        GroupNormalization(**arguments)


def test_channels_that_do_not_divide():
    with pytest.raises(UsageError, match="48, but must be divisible into 32 groups"):
        GroupNormalization(32).build((None, 7, 7, 48))
