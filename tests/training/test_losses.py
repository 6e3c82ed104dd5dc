import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv.attacks import random_streams
from tfode_adv.errors import UsageError
from tfode_adv.layers import ODEBlock
from tfode_adv.training import losses

WEIGHTS = np.random.default_rng(1).normal(size=(12, 3)).astype(np.float32)


def _linear(images):
    return tf.reshape(images, [-1, 12]) @ WEIGHTS


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    x = tf.constant(rng.uniform(0.3, 0.7, (6, 2, 2, 3)), tf.float32)
    return x, tf.constant(rng.integers(0, 3, 6)), random_streams.fold(7, tf.range(6))


def _numpy_log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_cross_entropy_and_label_smoothing_in_closed_form(batch):
    x, y, key = batch
    log_p = _numpy_log_softmax(_linear(x))
    true = log_p[np.arange(6), y.numpy()]
    plain, logits = losses.CrossEntropy()(_linear, x, x, y)
    np.testing.assert_allclose(plain, -true, rtol=1e-5)
    np.testing.assert_allclose(logits, _linear(x), rtol=1e-6)
    smooth, _ = losses.CrossEntropy(0.3)(_linear, x, x, y)
    np.testing.assert_allclose(smooth, -0.7 * true - 0.1 * log_p.sum(-1), rtol=1e-5)
    assert losses.CrossEntropy().attack(_linear, x, y, key) is x


def test_trades_in_closed_form(batch):
    x, y, _ = batch
    x_adv = x + 0.1
    log_p, log_q = _numpy_log_softmax(_linear(x)), _numpy_log_softmax(_linear(x_adv))
    expected = -log_p[np.arange(6), y.numpy()] + 3.0 * (np.exp(log_p) * (log_p - log_q)).sum(-1)
    values, _ = losses.Trades(inverse_lambda=3.0)(_linear, x, x_adv, y)
    np.testing.assert_allclose(values, expected, rtol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", [losses.Madry, losses.Trades])
def test_attacks_stay_in_the_ball_and_raise_the_loss(batch, kind, norm):
    x, y, key = batch
    loss = kind(norm=norm, eps=0.2)
    x_adv = loss.attack(_linear, x, y, key)
    delta = (x_adv - x).numpy().reshape(6, -1)
    length = np.abs(delta).max(-1) if norm == "linf" else np.linalg.norm(delta, axis=-1)
    assert (length <= 0.2 + 1e-6).all()
    assert x_adv.numpy().min() >= 0 and x_adv.numpy().max() <= 1
    if kind is losses.Trades:
        before, after = (losses.divergence(_log(x), _log(image)).numpy() for image in (x, x_adv))
        assert (before < 1e-6).all() and (after > 1e-3).all()
    else:
        before, after = (losses.cross_entropy(_linear(image), y).numpy() for image in (x, x_adv))
        assert (after > before).all()


def _log(images):
    return tf.nn.log_softmax(_linear(images))


def test_madrys_attack_of_a_linear_model_reaches_the_corner(batch):
    # Two classes: the worst point of the L-infinity ball is where every pixel moves by eps.
    x, _, key = batch
    y = tf.zeros(6, tf.int64)

    def two(images):
        return _linear(images)[:, :2]

    x_adv = losses.Madry(eps=0.1).attack(two, x, y, key)
    best = x + 0.1 * np.sign(WEIGHTS[:, 1] - WEIGHTS[:, 0]).reshape(2, 2, 3)
    np.testing.assert_allclose(x_adv, best, atol=1e-6)


def test_a_sample_is_attacked_the_same_in_any_batch(batch):
    x, y, key = batch
    loss = losses.Madry(eps=0.2, steps=2)
    whole = loss.attack(_linear, x, y, key)
    part = loss.attack(_linear, x[1::2], y[1::2], key[1::2])
    np.testing.assert_allclose(whole[1::2], part, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("trades", {"eps": -0.1}),
        ("trades", {"eps": 1e39}),
        ("trades", {"inverse_lambda": 1e39}),
        ("trades", {"label_smoothing": 0.1}),
        ("madry", {"step_size": 1e39}),
        ("madry", {"norm": "l1"}),
        ("madry", {"steps": 0}),
        ("cross_entropy", {"label_smoothing": 1.0}),
        ("hinge", {}),
    ],
)
def test_bad_values_are_named(name, options):
    with pytest.raises(UsageError):
        losses.get(name, **options)


class _Linear(keras.layers.Layer):
    """dh/dt = h A."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = self.add_weight(shape=matrix.shape, initializer=lambda *a, **k: tf.constant(matrix, tf.float32))

    def call(self, h):
        return h @ self.matrix


def test_lyapunov_in_closed_form_and_its_gradient_stays_in_the_dynamics():
    rng = np.random.default_rng(0)
    a, h = rng.normal(size=(4, 4)), rng.normal(size=(6, 4)).astype(np.float32)
    block = ODEBlock(_Linear(a), solver="euler")
    with tf.GradientTape() as tape:
        values, logits = losses.Lyapunov(samples=2)(block, tf.constant(h), None, None)
        total = tf.reduce_sum(values)
    # Of dh/dt = h A the Jacobian's entry (i, j) is A_ji.
    jacobian = a.T
    diagonal = np.diag(jacobian)
    others = np.abs(jacobian).sum(0) - 2 * np.abs(diagonal)
    stable = 10 * np.exp(diagonal + 1).mean() + 10 * np.exp((others + 1) / 10).mean()
    np.testing.assert_allclose(values, stable + 0.2 * (50 * (h @ a)) ** 2 @ np.full(4, 1 / 4), rtol=1e-4)
    np.testing.assert_allclose(logits, h + h @ a, rtol=1e-4)
    assert tf.reduce_any(tape.gradient(total, block.trainable_weights)[0] != 0)


def test_lyapunov_makes_a_state_an_attracting_one():
    # Of one number: the loss is least where the slope falls and the field at the state is 0.
    block = ODEBlock(_Linear(np.array([[1.0]])), solver="euler")
    x = tf.zeros([3, 1])
    before = losses.Lyapunov()(block, x, None, None)[0].numpy().mean()
    block.dynamics.matrix.assign([[-3.0]])
    assert losses.Lyapunov()(block, x, None, None)[0].numpy().mean() < before


@pytest.mark.parametrize("name", ["lyapunov", "steady", "lyapunov_decay"])
def test_a_loss_of_the_dynamics_refuses_a_model_without_an_ode(batch, name):
    x, y, _ = batch
    with pytest.raises(UsageError, match=f"loss '{name}' .* the model has none"):
        losses.get(name)(_linear, x, x, y)


def test_lyapunov_decay_in_closed_form_at_states_of_each_image_alone(batch):
    x, y, key = batch
    rates = np.array([-1.0, 2.0, 0.5], np.float32)

    def field(t, h, condition):
        return t * tf.reshape(condition, tf.shape(t)) * rates * h

    block = ODEBlock(field, solver="euler", final_time=2.0)
    loss = losses.LyapunovDecay(samples=7)

    def model(images):
        return block(_linear(images), condition=tf.fill([tf.shape(images)[0], 1], 0.3))

    values, _ = loss(model, x, loss.attack(model, x, y, key), y)
    states, times = (drawn.numpy() for drawn in loss._drawn(key, 3, 15 * np.sqrt(3), 2.0))
    lengths = np.linalg.norm(states, axis=-1)
    assert (
        lengths.max() < 15 * np.sqrt(3) and np.abs(np.median(lengths) - 13) < 4 and 0 <= times.min() < times.max() < 2
    )
    log_p = _numpy_log_softmax(states)
    wanted = np.eye(3)[y.numpy()][:, None]
    change = ((np.exp(log_p) - wanted) * times * 0.3 * rates * states).sum(-1)
    decay = np.log(15 * np.sqrt(3)) * -(log_p * wanted).sum(-1)
    np.testing.assert_allclose(values, np.maximum(0, change + decay).mean(-1), rtol=1e-4)
    few = slice(2, 4)
    np.testing.assert_allclose(loss(model, x[few], key[few], y[few])[0], values[few], rtol=1e-6)


def test_lyapunov_decay_wants_the_logits_to_be_the_state(batch):
    x, y, key = batch
    block = ODEBlock(lambda h: -h, solver="euler")
    with pytest.raises(UsageError, match="'lyapunov_decay' takes a model of one ODE block whose state is the logits"):
        losses.LyapunovDecay()(lambda images: _linear(images) + block(images)[:, 0, 0, :1], x, key, y)


def test_steady_in_closed_form():
    # Twenty of Euler's steps over [0, 2], and ten more of the same size.
    h = tf.constant([[1.0, -2.0], [0.5, 3.0]])
    block = ODEBlock(_Linear(np.diag([-0.5, 0.25])), solver="euler", num_steps=20, final_time=2.0)
    values, logits = losses.Steady(weight=0.3)(block, h, None, tf.constant([0, 1]))
    growth = 1 + 0.1 * np.array([-0.5, 0.25])
    np.testing.assert_allclose(logits, h.numpy() * growth**20, rtol=1e-5)
    moved = np.abs(h.numpy() * (growth**30 - growth**18)).mean(-1)
    expected = losses.cross_entropy(logits, tf.constant([0, 1])) + 0.3 * moved
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_lyapunov_looks_at_one_image_at_least():
    with pytest.raises(UsageError, match="samples is 0"):
        losses.get("lyapunov", samples=0)
