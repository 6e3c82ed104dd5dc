"""SONet's dynamics and the layers that start and end them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv.errors import UsageError
from tfode_adv.layers import AppendConstant, AveragePoolTo, LastFeatures, SkewDenseDynamics, SkewDynamics, TileChannels
from tfode_adv.layers.skew import SLOPE

T = tf.constant(0.0)


def normal(*shape):
    return tf.random.stateless_normal(shape, seed=[len(shape), shape[-1]])


def test_dense_dynamics_is_its_equations():
    dynamics = SkewDenseDynamics(units=3, features=5, gamma=0.5)
    y, z = normal(2, 5), normal(2, 3)
    slope = dynamics(T, tf.concat([y, z], axis=1))
    w, b = np.asarray(dynamics.kernel).T, np.asarray(dynamics.bias)

    def lrelu(v):
        return np.where(v > 0, v, SLOPE * v)

    np.testing.assert_allclose(slope[:, :5], lrelu(z.numpy()) @ w.T + b[:5] - 0.5 * y, atol=1e-5)
    np.testing.assert_allclose(slope[:, 5:], -lrelu(y.numpy()) @ w + b[5:] - 0.5 * z, atol=1e-5)


@pytest.mark.parametrize("strides, size", [(1, 6), (2, 6), (2, 7)])
def test_one_kernel_serves_both_directions(strides, size):
    """<conv(z), y> = <z, convT(y)>: what makes the field skew-symmetric, odd sizes included."""
    dynamics = SkewDynamics(8, 4, strides)
    z = normal(1, size, size, 4)
    y = TileChannels(8, strides)(z)
    y = normal(*y.shape)
    dynamics.build()
    for norm in dynamics.norms:
        norm.call = lambda x: x
    dy, dz = dynamics(T, (y, z))
    forward, backward = (np.sum(np.where(d > 0, d, d / SLOPE) * s) for d, s in ((dy, y), (dz, z)))
    assert forward == pytest.approx(-backward, rel=1e-4)
    assert dy.shape == y.shape and dz.shape == z.shape


def test_damping_pulls_back():
    free, damped = SkewDynamics(4, 4), SkewDynamics(4, 4, gamma=2.0)
    y, z = normal(1, 5, 5, 4), 2 * normal(1, 5, 5, 4)
    free(T, (y, z)), damped(T, (y, z))
    damped.set_weights(free.get_weights())

    def along(dynamics):
        return sum(float(tf.reduce_sum(d * s)) for d, s in zip(dynamics(T, (y, z)), (y, z), strict=True))

    assert along(damped) < along(free)


@pytest.mark.parametrize("layer", [SkewDynamics(8, 4, 2, gamma=0.1), SkewDenseDynamics(3, 5, gamma=0.1)])
def test_dynamics_round_trip(layer):
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert twin.get_config() == layer.get_config()


def test_tiling_takes_the_first_channels_for_the_remainder():
    x = normal(2, 7, 6, 3)
    y = TileChannels(8, strides=2)(x).numpy()
    expected = x.numpy()[:, ::2, ::2][:, :3, :3]
    np.testing.assert_array_equal(y, expected[..., [0, 1, 2, 0, 1, 2, 0, 1]])
    assert TileChannels(8, 2).compute_output_shape(x.shape) == y.shape


@pytest.mark.parametrize("height, width", [(32, 32), (7, 8), (3, 5)])
def test_adaptive_pooling_windows(height, width):
    x = normal(2, height, width, 2)
    y = AveragePoolTo(3)(x).numpy()
    for i in range(3):
        for j in range(3):
            rows = slice(i * height // 3, -(-(i + 1) * height // 3))
            columns = slice(j * width // 3, -(-(j + 1) * width // 3))
            np.testing.assert_allclose(y[:, i, j], x.numpy()[:, rows, columns].mean((1, 2)), atol=1e-5)


def test_constants_are_appended_and_taken_off():
    x = normal(3, 7)
    y = AppendConstant(4, 0.1)(x)
    np.testing.assert_array_equal(y[:, :7], x)
    assert LastFeatures(4)(y).numpy().tolist() == [[np.float32(0.1)] * 4] * 3
    assert AppendConstant(1, 0.1, dtype="float64")(np.ones([1, 1]))[0, 1] == 0.1


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: SkewDynamics(12, 3), "filters is 12, but must be divisible into 8"),
        (lambda: SkewDynamics(8, 3, strides=3), "strides is 3"),
        (lambda: SkewDynamics(8, 3, gamma=-1.0), "gamma is -1"),
        (lambda: SkewDenseDynamics(0, 5), "units is 0"),
        (lambda: TileChannels(8, 2).build((None, 1, 4, 3)), "height of the maps is 1"),
        (lambda: AveragePoolTo(3).build((None, 2, 4, 3)), "height of the maps is 2"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(UsageError, match=words):
        make()
