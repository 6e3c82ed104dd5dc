"""Convolutions: symmetric padding, the time as a channel, PyTorch's initialisation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv.errors import UsageError
from tfode_adv.layers import Conv2D, ConvDynamics, TimeConv2D, convolution


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("kernel_size, strides, padding", [(3, 1, 1), (3, 2, 1), (4, 2, 1), (1, 2, 0), (3, 1, 0)])
def test_padding_is_the_same_on_all_sides(size, kernel_size, strides, padding):
    x = tf.random.stateless_normal([2, size, size + 1, 3], seed=[0, size])
    layer = Conv2D(5, kernel_size, strides, padding)
    layer.build(x.shape)
    sources = [x, layer.kernel.value, layer.bias.value]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = layer(x)
        padded = tf.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
        expected = tf.nn.conv2d(padded, layer.kernel, strides, "VALID") + layer.bias
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert layer.compute_output_shape(x.shape) == tuple(y.shape)
    upstream = tf.random.stateless_normal(y.shape, seed=[0, 9])
    gradients, wanted = (tape.gradient(value, sources, upstream) for value in (y, expected))
    for gradient, want in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(gradient, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("height, width", [(7, 8), (8, 6), (None, None)])
@pytest.mark.parametrize("kernel_size, strides, padding", [(3, 1, 1), (4, 2, 1), (3, 2, 1), (3, 1, 0)])
def test_the_transpose_is_the_convolutions(kernel_size, strides, padding, height, width):
    """<conv(x), y> = <x, convT(y)> for all x and y."""
    x = tf.random.stateless_normal([2, height or 7, width or 8, 3], seed=[0, 1])
    kernel = tf.random.stateless_normal([kernel_size, kernel_size, 3, 5], seed=[0, 2])

    @tf.function(input_signature=[tf.TensorSpec([None, height, width, 3])])
    def products(x):
        convolved = convolution.conv2d(x, kernel, strides, padding)
        y = tf.random.stateless_normal(tf.shape(convolved), seed=[0, 3])
        back = convolution.conv2d_transpose(y, kernel, x, strides, padding)
        return tf.reduce_sum(convolved * y), tf.reduce_sum(x * back)

    forward, backward = products(x)
    assert float(forward) == pytest.approx(float(backward), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("scalar", [True, False])
def test_time_is_the_first_channel(scalar):
    h = tf.random.stateless_normal([3, 5, 4, 8], seed=[1, 2])
    t = tf.constant(0.7) if scalar else tf.reshape([0.1, 0.7, -2.0], [3, 1, 1, 1])
    layer = TimeConv2D(8)
    layer.build()
    sources = [t, h, layer.kernel.value, layer.bias.value]
    upstream = tf.random.stateless_normal(h.shape, seed=[5, 6])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(sources)
        y = layer(t, h)
        joined = tf.concat([tf.broadcast_to(t, [3, 5, 4, 1]), h], axis=-1)
        expected = tf.nn.conv2d(joined, layer.kernel, 1, "SAME") + layer.bias
    np.testing.assert_allclose(y, expected, atol=1e-5)
    gradients, wanted = (tape.gradient(value, sources, upstream) for value in (y, expected))
    for gradient, want in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(gradient, want, rtol=1e-4, atol=1e-4)


def test_torch_initialisation_is_uniform_in_one_over_the_root_of_the_fan_in():
    layer = Conv2D(64, 3)
    layer.build((None, 8, 8, 16))
    bound = (9 * 16) ** -0.5
    kernel = np.asarray(layer.kernel)
    assert 0.98 * bound < np.abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / 3**0.5, rel=0.03)
    assert 0.8 * bound < np.abs(layer.bias).max() <= bound


def test_keras_initialisation_starts_biases_at_zero():
    layer = Conv2D(4, initialization="keras")
    layer.build((None, 8, 8, 16))
    assert not np.any(layer.bias)


@pytest.mark.parametrize("policy, tolerance", [("mixed_float16", 0.05), ("mixed_bfloat16", 0.3)])
def test_dynamics_in_mixed_precision(policy, tolerance):
    h = tf.random.stateless_normal([2, 6, 6, 16], seed=[3, 4])
    precise, mixed = ConvDynamics(16, groups=4), ConvDynamics(16, groups=4, dtype=policy)
    t = tf.constant(0.5)
    expected, _ = precise(t, h), mixed(t, h)
    mixed.set_weights(precise.get_weights())
    y = mixed(t, h)
    assert y.dtype == mixed.compute_dtype and mixed.norm1.gamma.dtype == "float32"
    np.testing.assert_allclose(tf.cast(y, tf.float32), expected, atol=tolerance)


def test_dynamics_round_trip():
    dynamics = ConvDynamics(16, groups=8, initialization="keras", name="f")
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(dynamics))
    assert (twin.filters, twin.groups, twin.initialization, twin.name) == (16, 8, "keras", "f")


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Conv2D(0), "filters is 0"),
        (lambda: Conv2D(4, strides=0), "strides is 0"),
        (lambda: Conv2D(4, initialization="zeros"), "'zeros'"),
        (lambda: Conv2D(4, 4, padding=1).build((None, 1, 8, 3)), "input height is 1"),
        (lambda: ConvDynamics(48), "filters is 48, but must be divisible into 32"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(UsageError, match=words):
        make()
