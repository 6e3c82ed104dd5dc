"""Building the papers' models: sizes, options, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfode_adv as ta
from tfode_adv.errors import UsageError

CIFAR = {"input_shape": (32, 32, 3)}
# The smallest of each family: (options, images' shape).
SMALL = {
    "res": {"filters": 4, "input_shape": (12, 12, 1)},
    "mix": {"filters": 4, "input_shape": (12, 12, 1)},
    "oon": {"filters": 4, "input_shape": (8, 9, 2), "normalization": ((0.4, 0.5), (0.2, 0.3))},
    "sonet": {"filters": 4, "blocks": (1, 1), "input_shape": (9, 9, 3)},
    "resnet10": {"filters": 4, "blocks": (1, 2), "input_shape": (8, 8, 3)},
    "soblock_resnet10": {"filters": 8, "blocks": (1,), "input_shape": (8, 8, 3)},
    "wide_resnet": {"depth": 10, "widen": 1, "filters": 4, "input_shape": (8, 8, 3)},
    "soblock_wide_resnet": {"depth": 10, "widen": 1, "filters": 4, "input_shape": (8, 8, 3)},
    "odenet_tq": {"filters": 6, "blocks": (2,), "input_shape": (5, 6, 3)},
    "tisode": {"filters": 4, "input_shape": (8, 9, 1)},
    "tisode_odenet": {"filters": 4, "input_shape": (8, 9, 1)},
    "tisode_cnn": {"filters": 4, "input_shape": (8, 9, 1)},
    "gains": {"filters": 4, "input_shape": (14, 15, 1)},
    "sodef": {"filters": 4, "blocks": (1, 1), "input_shape": (8, 9, 1)},
    "sodef_features": {"filters": 4, "blocks": (1, 1), "input_shape": (8, 9, 1)},
    "lyanet": {"filters": 4, "blocks": (1, 1), "input_shape": (12, 13, 1)},
}


def images(model, count=3, seed=0):
    return tf.random.stateless_uniform([count, *model.input_shape[1:]], seed=[seed, 1])


@pytest.mark.parametrize(
    "name, options, millions",
    [
        ("res", {}, 0.60),
        ("mix", {}, 0.23),
        ("oon", {}, 0.08),
        ("res", CIFAR | {"filters": 256}, 7.92),
        ("mix", CIFAR | {"filters": 256}, 2.02),
        ("oon", CIFAR | {"filters": 256}, 1.20),
    ],
)
def test_trainable_parameters_are_the_published_number(name, options, millions):
    model = ta.models.build(name, **options)
    count = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert round(count / 1e6, 2) == millions


def test_every_model_is_listed_and_tried_here():
    assert set(ta.models.available()) == set(SMALL)
    assert all(summary and "\n" not in summary for summary in ta.models.available().values())


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_model_is_the_same_model(name, tmp_path):
    model = ta.models.build(name, num_classes=5, solver="bosh3", tol=0.3, **SMALL[name])
    model.save(tmp_path / "m.keras")
    twin = keras.models.load_model(tmp_path / "m.keras")
    x = images(model)
    assert model.output_shape == (None, 5) and model.name == name
    np.testing.assert_array_equal(twin(x), model(x))
    assert [(b.solver, b.tol) for b in ta.models.ode_blocks(twin)] == [
        (b.solver, b.tol) for b in ta.models.ode_blocks(model)
    ]


@pytest.mark.parametrize("name", ["sonet", "soblock_resnet10", "odenet_tq"])
def test_a_compiled_gradient_is_the_eager_one(name):
    model = ta.models.build(name, tol=1e-2, **(SMALL[name] | {"blocks": (1,)}))
    x = images(model)

    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(model(x) ** 2)
        return tape.gradient(loss, [x, *model.trainable_variables])

    eager, compiled = (tf.concat([tf.reshape(g, [-1]) for g in f()], 0) for f in (gradient, tf.function(gradient)))
    assert tf.norm(compiled - eager) < 1e-3 * tf.norm(eager)


def test_normalization_is_inside_the_model():
    options = SMALL["oon"]
    normalized = ta.models.build("oon", solver="rk4", **options)
    plain = ta.models.build("oon", solver="rk4", **(options | {"normalization": None}))
    plain.set_weights(normalized.get_weights())
    x = images(plain)
    mean, deviation = (np.asarray(values, np.float32) for values in options["normalization"])
    np.testing.assert_allclose(normalized(x), plain((x - mean) / deviation), atol=1e-4)


def test_dropout_is_for_training_only():
    model = ta.models.build("res", dropout=0.9, **SMALL["res"])
    x = images(model)
    np.testing.assert_array_equal(model(x), model(x, training=False))
    assert not np.allclose(model(x), model(x, training=True))


def test_logits_are_float32_in_mixed_precision():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        models = [ta.models.build(name, tol=1.0, **SMALL[name]) for name in ("res", "oon", "sonet")]
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    for model in models:
        logits = model(images(model))
        assert logits.dtype == tf.float32 and np.isfinite(logits).all()


def test_training_moves_batch_norm_s_moments():
    model = ta.models.build("resnet10", **SMALL["resnet10"])
    before = [variable.numpy() for variable in model.non_trainable_variables]
    model(images(model), training=True)
    assert any((a != b.numpy()).any() for a, b in zip(before, model.non_trainable_variables, strict=True))


@pytest.mark.parametrize("name", ["oon", "wide_resnet"])
def test_the_start_is_pytorch_s_or_the_one_asked_for(name):
    options = {"depth": 10, "widen": 4} if name == "wide_resnet" else {"filters": 64}

    def kernel(**initialization):
        model = ta.models.build(name, input_shape=(8, 8, 3), **options, **initialization)
        layer = model.get_layer("ode").dynamics if name == "oon" else model.get_layer("stage3_block0")
        return layer.conv2.kernel.numpy()

    fan_in = np.prod(kernel().shape[:3])
    assert 0.99 * fan_in**-0.5 < kernel().max() <= fan_in**-0.5
    assert kernel(initialization="he_fan_out").std() == pytest.approx(
        (2 / (9 * 64 * 4 ** (name != "oon"))) ** 0.5, rel=0.02
    )


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("resnet", {}, r"model is 'resnet', but must be one of: res, mix, oon"),
        ("oon", {"depth": 10}, "oon has no option depth; it has: dropout, filters"),
        ("oon", {"filters": 48}, "filters is 48, but must be divisible into 32 groups"),
        ("res", {"filters": 48}, "filters is 48, but must be divisible into 32 groups"),
        ("sonet", {"filters": 12}, "filters is 12, but must be divisible into 8 groups"),
        ("oon", {"filters": 0}, "filters is 0"),
        ("oon", {"filters": "64"}, "filters is '64'"),
        ("oon", {"dropout": 1.0}, "dropout is 1.0"),
        ("oon", {"num_classes": 1}, "num_classes is 1"),
        ("oon", {"input_shape": (28, 28)}, "input_shape is"),
        ("oon", {"input_shape": (1, 28, 1)}, "stem's input height is 1"),
        ("res", {"input_shape": (2, 28, 1)}, "stem's input height is 2"),
        ("oon", {"initialization": "zeros"}, "'zeros'"),
        ("oon", {"normalization": 0.5}, "normalization is 0.5"),
        ("oon", {"normalization": ([0.1, 0.2], 1.0)}, "normalization is"),
        ("oon", {"normalization": (0.5, 0.0)}, "standard deviation of normalization is 0"),
        ("oon", {"normalization": (float("nan"), 1.0)}, "mean of normalization is nan"),
        ("sonet", {"blocks": (1.5, 1)}, "blocks per stage is 1.5"),
        ("sonet", {"blocks": 2}, "blocks is 2"),
        ("sonet", {"blocks": (2, 0)}, "blocks per stage is 0"),
        ("wide_resnet", {"depth": 12}, r"depth is 12, but must be 6 n \+ 4"),
        ("oon", {"tol": 0.0}, "tol"),
        ("oon", {"solver": "rk5"}, "'rk5'"),
        ("oon", {"gradient": "exact"}, "'exact'"),
        ("res", {"solver": "rk5"}, "'rk5'"),
        ("res", {"tol": 0.0}, "tol is 0"),
        ("res", {"speed": 3}, "option is 'speed', but must be one of: solver, tol"),
    ],
)
def test_bad_arguments(name, options, words):
    with pytest.raises(UsageError, match=words):
        ta.models.build(name, **options)
