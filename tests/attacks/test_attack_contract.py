"""What an attack promises of its result, of the models it takes, and of its hyperparameters."""

import dataclasses
import importlib.util
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfode_adv as ta
from tfode_adv import attacks
from tfode_adv.attacks import checks
from tfode_adv.attacks.registry import ATTACKS, REQUIRED, kind
from tfode_adv.errors import UsageError

FOOLBOX = importlib.util.find_spec("foolbox") is not None
FAMILY = [name for name in ATTACKS if FOOLBOX or name not in ("deepfool", "boundary", "hopskipjump")]


def lines(count=8):
    """Images of one grey level each, and a model whose second class wins above one half."""
    x = np.linspace(0.1, 0.8, count, dtype=np.float32).reshape(-1, 1, 1, 1) + np.zeros((1, 3, 3, 1), np.float32)
    return x, (x[:, 0, 0, 0] > 0.5).astype(np.int64)


def level(x):
    score = 10.0 * (tf.reduce_mean(x, [1, 2, 3]) - 0.5)
    return tf.stack([-score, score], -1)


def test_a_result_tells_clean_errors_from_success():
    """Levels .1, .2 ... .8; of labels all 0 five are right, of which eps = .15 turns .4 and .5 (a tie before)."""
    x, _ = lines()
    result = attacks.PGD(eps=0.15)(level, x, np.zeros(8, np.int64))
    np.testing.assert_array_equal(result.clean_prediction, [0, 0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(result.prediction, [0, 0, 0, 1, 1, 1, 1, 1])
    assert (result.clean_accuracy, result.attack_success_rate, result.robust_accuracy) == (5 / 8, 2 / 5, 3 / 8)
    assert not result.no_answer.any()
    words = "AttackResult(8 images, clean accuracy 62.5 %, attack success rate 40.0 %, robust accuracy 37.5 %)"
    assert repr(result) == words
    staged = attacks.AutoAttack(eps=0.15, steps=5, queries_square=5)(level, x, np.zeros(8, np.int64))
    assert repr(staged) == words.replace("Attack", "Staged", 1)
    np.testing.assert_array_equal(staged.clean_prediction, result.clean_prediction)


def test_a_result_tells_what_the_model_answers():
    """Level .4 gives -1 and 1 times 10 (.4 - .5); three steps of .0375 on, where the attack stops, .5125."""
    x, _ = lines()
    result = attacks.PGD(eps=0.15)(level, x, np.zeros(8, np.int64))
    np.testing.assert_allclose(result.clean_logits[3], [1, -1], atol=1e-5)
    np.testing.assert_allclose(result.logits[3], [-0.125, 0.125], atol=1e-5)
    assert result.nfe.tolist() == result.clean_nfe.tolist() == [0] * 8
    known = attacks.PGD(eps=0.15)(level, x, np.zeros(8, np.int64), clean=result.clean)
    np.testing.assert_array_equal(known.x_adv, result.x_adv)
    np.testing.assert_array_equal(known.queries, result.queries)


def test_a_targeted_result_counts_those_that_had_to_be_moved():
    x, _ = lines()
    result = attacks.PGD(eps=0.15, targeted=True)(level, x, np.ones(8, np.int64))
    assert result.attack_success_rate == 2 / 5
    assert np.isnan(result.clean_accuracy) and np.isnan(result.robust_accuracy)


def test_an_image_without_an_answer_is_neither_turned_nor_right():
    def model(x):
        moved = tf.reduce_max(tf.abs(x - 0.2), [1, 2, 3]) > 0.01
        return tf.where(moved[:, None], np.float32(np.nan), level(x))

    x = np.full((2, 3, 3, 1), 0.2, np.float32)
    result = attacks.PGD(eps=0.1)(model, x, np.zeros(2, np.int64))
    assert result.no_answer.all() and not result.success.any()
    assert (result.attack_success_rate, result.robust_accuracy) == (0.0, 0.0)
    assert "no answer for 2" in repr(result)


@pytest.mark.parametrize("form", [lambda y: y[:, None], lambda y: np.eye(2)[y], lambda y: np.eye(2, dtype=bool)[y]])
def test_labels_in_every_usual_form(form):
    x, y = lines()
    attack = attacks.PGD(eps=0.15)
    np.testing.assert_array_equal(attack(level, x, form(y)).success, attack(level, x, y).success)
    with pytest.raises(UsageError, match="one-hot"):
        attack(level, x, np.full((8, 2), 0.5))


def test_images_in_other_units_than_the_models_are_noticed():
    def model(x):
        return level(x / 255.0)

    x, y = lines(16)
    with pytest.warns(attacks.AttackWarning, match="wrong before the attack.*Rescaled"):
        attacks.PGD(eps=0.01)(model, x, np.ones(16, np.int64))
    inner = keras.Sequential([keras.layers.Input((3, 3, 1)), keras.layers.Lambda(model)])
    result = attacks.PGD(eps=0.15)(ta.models.Rescaled(inner, (0, 255)), x, y)
    np.testing.assert_array_equal(result.success, attacks.PGD(eps=0.15)(level, x, y).success)
    with pytest.raises(UsageError, match="bounds"):
        ta.models.Rescaled(inner, 255)


def _classifier(*end, inputs=(3, 3, 1)):
    keras.utils.set_random_seed(3)
    return keras.Sequential([keras.layers.Input(inputs), keras.layers.Flatten(), *end])


@pytest.mark.parametrize(
    "end",
    [
        lambda: [keras.layers.Dense(3, activation="softmax")],
        lambda: [keras.layers.Dense(3), keras.layers.Softmax()],
        lambda: [keras.layers.Dense(3), keras.layers.Activation("sigmoid")],
        lambda: [keras.Sequential([keras.layers.Input((9,)), keras.layers.Dense(1, activation="sigmoid")])],
    ],
)
def test_logits_are_what_went_into_the_last_softmax_or_sigmoid(end, tmp_path):
    model = _classifier(*end())
    x = np.random.RandomState(0).uniform(size=(12, 3, 3, 1)).astype(np.float32)
    weights, bias = model.get_weights()
    expected = x.reshape(12, 9) @ weights + bias
    expected = np.concatenate([0 * expected, expected], -1) if expected.shape[-1] == 1 else expected
    before = model(x)
    wrapped = ta.models.Logits(model)
    np.testing.assert_allclose(wrapped(x), expected, atol=1e-6)
    np.testing.assert_array_equal(model(x), before)
    assert wrapped.compute_output_shape((None, 3, 3, 1)) == (None, expected.shape[-1])
    wrapped.save(tmp_path / "logits.keras")
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "logits.keras")(x), expected, atol=1e-6)
    words = "shape" if model.output_shape[-1] == 1 else "probabilities"
    with pytest.raises(UsageError, match=f"{words}.*models.Logits"):
        attacks.PGD(eps=0.1)(model, x, expected.argmax(-1))
    assert attacks.PGD(eps=0.5)(wrapped, x, expected.argmax(-1)).success.any()


def test_an_operation_may_end_in_probabilities_too():
    inputs = keras.Input((4,))
    logits = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    nested = keras.Sequential([keras.Input((3,)), keras.Sequential([keras.layers.Activation("softmax")])])
    x = tf.constant(np.random.RandomState(0).normal(size=(5, 4)), tf.float32)
    for end in (keras.ops.softmax, keras.ops.sigmoid, nested):
        model = keras.Model(inputs, end(logits(inputs)))
        np.testing.assert_allclose(ta.models.Logits(model)(x), logits(x), atol=1e-6)
        np.testing.assert_allclose(model(x), end(logits(x)), atol=1e-6)


def test_the_model_itself_is_untouched_in_other_threads():
    """While one thread is inside the logits, another one asks for probabilities."""
    inside, asked = threading.Event(), threading.Event()

    class Waits(keras.layers.Layer):
        def call(self, x):
            if threading.current_thread() is not threading.main_thread():
                inside.set()
                assert asked.wait(20)
            return x

    model = _classifier(Waits(), keras.layers.Dense(3, activation="softmax"))
    x = np.random.RandomState(0).uniform(size=(2, 3, 3, 1)).astype(np.float32)
    before, logits = model(x), ta.models.Logits(model)
    expected, found = logits(x), []
    other = threading.Thread(target=lambda: found.append(logits(x)))
    other.start()
    assert inside.wait(20)
    np.testing.assert_array_equal(model(x), before)
    np.testing.assert_array_equal(logits(x), expected)
    asked.set()
    other.join()
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(model(x), before)


def test_what_does_not_end_in_probabilities_is_not_unwrapped():
    with pytest.raises(UsageError, match="Dense, but must be a softmax or sigmoid"):
        ta.models.Logits(_classifier(keras.layers.Dense(3)))


@pytest.mark.parametrize("activation", [tf.nn.softmax, tf.nn.sigmoid])
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_probabilities_in_any_precision_are_refused(linear, activation, dtype):
    with pytest.raises(UsageError, match="probabilities"):
        attacks.PGD(eps=0.1)(lambda x: activation(tf.cast(linear(x), dtype)), linear.x, linear.y)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: tf.reduce_sum(0.0 * x, [1, 2, 3])[:, None] + [0.7, 0.3],
        lambda x: tf.tile([[0.7, 0.3]], [tf.shape(x)[0], 1]),
        lambda x: tf.reduce_mean(x - 0.2, [1, 2, 3])[:, None] * [0.0, 1e-9] + [0.7, 0.3],
        lambda x: tf.reduce_mean(x, [1, 2, 3])[:, None] * [1e-20, 2e-20],
        lambda x: tf.nn.relu(tf.reduce_mean(x, [1, 2, 3]))[:, None] * [1e-20, 2e-20],
        lambda x: tf.reduce_mean(x, [1, 2, 3])[:, None] * [0.2, 0.1],
    ],
)
def test_logits_that_look_like_probabilities_are_not(model):
    """Constant ones, tiny ones, and those of a model that answers more than 1 to larger values."""
    x = np.full((2, 3, 3, 1), 0.2, np.float32)
    attacks.PGD(eps=0.1, steps=1)(model, x, np.zeros(2, np.int64))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda x: {"a": level(x)}, "dict of 1"),
        (lambda x: [level(x), level(x)], "list of 2"),
        (lambda x: (level(x), x), "tuple of 2"),
        (lambda x: tf.cast(level(x), tf.int64), "int64"),
        (lambda x: tf.cast(level(x), tf.complex64), "complex64"),
        (lambda x: level(tf.stop_gradient(x)), "no gradient"),
        (lambda x: level(tf.stop_gradient(x)) + 0.0 * _float(tf.argmax(level(x), -1))[:, None], "no gradient"),
        (lambda x: level(tf.stop_gradient(x) + 0.0 * tf.round(x)), "no gradient"),
        (lambda x: tf.numpy_function(lambda a: level(a).numpy(), [x], tf.float32), "no gradient"),
    ],
)
def test_models_that_cannot_be_judged_are_refused_in_one_line(model, words):
    x, y = lines(3)
    for attack in (attacks.PGD(eps=0.1), attacks.get("cwlinf"), *([attacks.DeepFool()] if FOOLBOX else [])):
        with pytest.raises(UsageError, match="^[^\n]*$") as error:
            attack(model, x, y)
        assert words in str(error.value)


@pytest.mark.parametrize(
    "steps",
    [
        lambda x: tf.round(10 * x) / 10,
        lambda x: _float(x > 0.5),
        lambda x: tf.stop_gradient(tf.round(10 * x) / 10),
        tf.function(lambda x: tf.floor(10 * x) / 10),
    ],
)
def test_a_model_of_steps_is_warned_about(steps):
    x, y = lines(3)
    for attack in (attacks.PGD(eps=0.1), *([attacks.DeepFool()] if FOOLBOX else [])):
        with pytest.warns(attacks.AttackWarning, match="gradient is zero"):
            assert not attack(lambda x: level(steps(x)), x, y).success.any()


def test_a_model_that_sees_the_shape_alone_is_warned_about():
    x, _ = lines(3)
    with pytest.warns(attacks.AttackWarning, match="gradient is zero"):
        result = attacks.PGD(eps=0.1)(lambda x: level(tf.zeros_like(x)), x, np.zeros(3, np.int64))
    assert not result.success.any()


@pytest.mark.parametrize("name", ATTACKS)
def test_what_the_registry_says_of_an_attack_is_what_its_class_has(name):
    cls = kind(name)
    defaults = [
        (field.name, REQUIRED if field.default is dataclasses.MISSING else field.default)
        for field in dataclasses.fields(cls)
        if field.init
    ]
    said = ATTACKS[name]
    assert (said.name, said.summary, said.norms) == (cls.name, cls.summary, cls.norms)
    assert list(said.defaults.items()) == defaults


def _numeric():
    for name in ATTACKS:
        for field in dataclasses.fields(kind(name)):
            if "bounds" in field.metadata and field.init and name in FAMILY:
                yield name, field.name, checks.kind(field)


@pytest.mark.parametrize(("name", "field", "kind"), _numeric())
def test_every_hyperparameter_has_the_range_of_its_type(name, field, kind):
    for value in (2**31, 10**400, -(2**40)) if kind is int else (1e39, 10**400, float("inf"), -1.0):
        with pytest.raises(UsageError, match=f"^{field} is [^\n]*$"):
            attacks.get(name, **{"eps": 0.1, field: value})


def test_what_float32_makes_zero_or_int32_turns_round_is_refused():
    for build, words in [
        (lambda: attacks.PGD(eps=0.1, step_size=1e-50), "step_size is 1e-50"),
        (lambda: attacks.CWL2(steps=2**30, binary_search_steps=9), "steps, but must"),
        (lambda: attacks.EOT(2**31), "eot"),
        (lambda: attacks.Through(num_steps=2**31), "gradient_num_steps"),
        (lambda: attacks.Through(tol=1e39), "gradient_tol"),
        (lambda: attacks.Through(tol=1e-50), "gradient_tol"),
    ]:
        with pytest.raises(UsageError, match=words):
            build()


SMALL = {"spsa": {"samples": 8, "steps": 8}, "square": {"steps": 20}, "cw": {"steps": 30, "learning_rate": 0.05}}
SMALL |= {"rays": {"steps": 40}}
SMALL |= {"autoattack": {"steps": 5, "queries_square": 5}, "boundary": {"steps": 5}, "hopskipjump": {"steps": 1}}
SMALL |= {name: {"steps": 8} for name in ("apgd", "apgd_dlr", "apgd_t", "fab")}


@pytest.mark.parametrize("name", FAMILY)
def test_each_image_may_have_its_own_eps(name):
    """Each is turned as it is alone with that eps, in batches of two as well."""
    x, y = lines(4)
    norm = attacks.available()[name].norms[0]
    eps = np.array([0.0, 0.5, 0.02, 0.35]) * (1.0 if norm == "linf" else 3.0)
    own = SMALL.get(name, {})
    whole = attacks.get(name, norm=norm, eps=eps, batch_size=16, **own)(level, x, y)
    one_by_one = attacks.get(name, norm=norm, eps=0.1, batch_size=16, **own)
    for i in range(4):
        free = {"step_size": None} if name in ("pgd", "bim", "mim") else {}
        attack = dataclasses.replace(one_by_one, eps=float(eps[i]), **free)
        alone = attack(level, x[i : i + 1], y[i : i + 1], indices=[i])
        assert whole.success[i] == alone.success[0]
        np.testing.assert_allclose(whole.x_adv[i], alone.x_adv[0], atol=1e-5)
    assert (whole.distance <= eps * (1 + 1e-5) + 1e-6).all()


def test_as_many_eps_as_images():
    x, y = lines(4)
    with pytest.raises(UsageError, match="^eps has 3 values, but there are 4 images$"):
        attacks.PGD(eps=[0.1, 0.2, 0.3])(level, x, y)
    with pytest.raises(UsageError, match="eps is -0.1"):
        attacks.PGD(eps=[0.1, -0.1])


def _float(x):
    return tf.cast(x, tf.float32)


class Most:
    """A model that keeps the largest batch that it was given."""

    def __init__(self, classes=2):
        self.most, self._classes = tf.Variable(0), classes

    def __call__(self, x):
        self.most.assign(tf.maximum(self.most, tf.shape(x)[0]))
        logits = level(x)
        return tf.concat([logits, tf.tile(logits[:, :1] - 1.0, [1, self._classes - 2])], -1)


@pytest.mark.parametrize(
    ("name", "batch_size", "classes", "hyperparameters"),
    [
        ("spsa", 3, 2, {"samples": 12, "steps": 3}),
        ("spsa", 5, 2, {"samples": 14, "steps": 2}),
        ("pgd", 4, 2, {"source": attacks.EOT(7), "steps": 2}),
        ("pgd", 4, 2, {"source": attacks.Smoothed(0.05, n=10), "steps": 2}),
        ("fab", 4, 7, {"targets": None, "steps": 2}),
        ("pgd", 4, 2, {"source": attacks.EOT(12), "steps": 2}),
        ("pgd", 4, 2, {"source": attacks.EOT(3, attacks.EOT(6)), "steps": 2}),
        ("fab", 4, 10, {"targets": None, "steps": 2}),
        ("fab", 4, 10, {"targets": None, "steps": 2, "source": attacks.EOT(3)}),
        ("autoattack", 4, 5, {"source": attacks.EOT(6), "steps": 2, "queries_square": 2}),
        *([("hopskipjump", 7, 2, {"steps": 1}), ("boundary", 7, 2, {"steps": 2})] if FOOLBOX else []),
    ],
)
def test_no_batch_is_larger_than_batch_size(name, batch_size, classes, hyperparameters):
    x, y = lines(3)
    norm = attacks.available()[name].norms[0]
    attack = attacks.get(name, norm=norm, eps=0.1, batch_size=batch_size, **hyperparameters)
    model, whole = Most(classes), Most(classes)
    found = attack(model, x, y)
    assert 0 < int(model.most) <= batch_size
    free = dataclasses.replace(attack, batch_size=256)(whole, x, y)
    np.testing.assert_allclose(found.x_adv, free.x_adv, atol=1e-5)
    np.testing.assert_array_equal(found.queries, free.queries)
    np.testing.assert_array_equal(found.gradients, free.gradients)
