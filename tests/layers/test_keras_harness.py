"""Every public layer passes Keras's own checks: it saves, loads, runs symbolically, trains, and in mixed precision."""

import keras
import numpy as np
import pytest

from tfode_adv import layers

try:
    from keras.src.testing import TestCase
except ImportError:
    pytest.skip(f"Keras {keras.__version__} brings no run_layer_test", allow_module_level=True)

IMAGE, VECTOR = (2, 8, 8, 4), (2, 6)
CASES = [
    (layers.GroupNormalization, {"groups": 2}, IMAGE, IMAGE),
    (layers.Conv2D, {"filters": 3}, IMAGE, (2, 8, 8, 3)),
    (layers.ResidualBlock, {"filters": 8, "strides": 2}, IMAGE, (2, 4, 4, 8)),
    (layers.BasicBlock, {"filters": 8, "strides": 2}, IMAGE, (2, 4, 4, 8)),
    (layers.WideBlock, {"filters": 8, "strides": 2}, IMAGE, (2, 4, 4, 8)),
    (layers.TileChannels, {"filters": 6}, IMAGE, (2, 8, 8, 6)),
    (layers.AveragePoolTo, {"size": 3}, IMAGE, (2, 3, 3, 4)),
    (layers.AppendConstant, {"units": 2}, VECTOR, (2, 8)),
    (layers.LastFeatures, {"units": 2}, VECTOR, (2, 2)),
]


@pytest.mark.parametrize(
    ("layer", "options", "shape", "expected"), CASES, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_layer_passes_run_layer_test(layer, options, shape, expected):
    data = np.random.default_rng(0).normal(size=shape).astype("float32")
    TestCase().run_layer_test(layer, options, input_data=data, expected_output_shape=expected)


def test_the_ode_block_passes_run_layer_test():
    options = {"dynamics": layers.ConvDynamics(4, groups=2), "solver": "rk4", "num_steps": 1}
    data = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype("float32")
    TestCase().run_layer_test(layers.ODEBlock, options, input_data=data, expected_output_shape=(2, 4, 4, 4))


TIME, STATE = (2, 1, 1, 1), (2, 4, 4, 4)
DYNAMICS = [
    (layers.ConvDynamics, {"filters": 4, "groups": 2}, {"t_shape": TIME, "h_shape": STATE}),
    (layers.TimeConv2D, {"filters": 4}, {"t_shape": TIME, "h_shape": STATE}),
    (layers.SkewDenseDynamics, {"units": 4, "features": 6}, {"t_shape": (2, 1), "state_shape": (2, 10)}),
]


@pytest.mark.parametrize(("layer", "options", "shapes"), DYNAMICS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_dynamics_passes_run_layer_test(layer, options, shapes):
    expected = list(shapes.values())[1]
    # The harness trains a layer by its first argument alone; the block trains its dynamics.
    checks = {"expected_output_shape": expected, "run_training_check": False}
    TestCase().run_layer_test(layer, options, input_shape=shapes, **checks)
