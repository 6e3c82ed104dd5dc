"""ODEBlock inside Keras: settings, serialisation, fit, compiled and mixed-precision calls, failure."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfode_adv as ta
from tfode_adv.layers import ODEBlock, record_statistics, solver_settings


@keras.saving.register_keras_serializable(package="tests")
class Dense(keras.layers.Layer):
    """h' = tanh(W h + t)."""

    def __init__(self, units, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.units, self.scale = units, scale

    def build(self, t_shape, h_shape):
        initializer = keras.initializers.RandomNormal(stddev=self.scale, seed=3)
        self.kernel = self.add_weight(shape=(h_shape[-1], self.units), initializer=initializer, name="kernel")

    def call(self, t, h):
        return tf.tanh(tf.matmul(h, self.kernel) + tf.cast(t, h.dtype))

    def get_config(self):
        return super().get_config() | {"units": self.units, "scale": self.scale}


H0 = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@pytest.fixture
def block():
    keras.utils.set_random_seed(0)
    block = ODEBlock(Dense(4), tol=1e-3)
    block(H0)
    return block


def test_one_trace_serves_every_tolerance(block):
    traces = []

    @tf.function(autograph=False)
    def run(h):
        traces.append(1)
        with record_statistics() as records:
            block(h)
        return records[0][1].nfe

    counts = []
    for tol in np.logspace(-6, 1, 10):
        block.tol = tol
        assert block.tol == tol
        counts.append(run(H0).numpy().sum())
    assert len(traces) == 1
    assert counts[0] > counts[4] > counts[-1]


def test_one_trace_serves_every_number_of_steps(block):
    block.solver = "rk4"
    run = tf.function(block, autograph=False)
    found = []
    for block.num_steps in (1, 2, 16):
        found.append(run(H0).numpy())
    assert np.abs(found[0] - found[2]).max() > np.abs(found[1] - found[2]).max() > 0


def test_it_works_where_keras_does(block, tmp_path):
    """Functional model, fit, save, load, predict; an unknown batch size; an empty batch."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(block(inputs)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = (H0[:, 0] > 0).astype(int)
    first = model.evaluate(H0, labels, verbose=0)
    before = block.dynamics.kernel.numpy()
    model.fit(H0, labels, epochs=8, batch_size=3, verbose=0)
    assert model.evaluate(H0, labels, verbose=0) < first
    assert np.abs(block.dynamics.kernel.numpy() - before).max() > 0
    block.tol = 1e-5
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    np.testing.assert_allclose(loaded(H0), model(H0), rtol=1e-6)
    assert [b.tol for b in loaded.layers if isinstance(b, ODEBlock)] == [1e-5]
    assert model(H0[:0]).shape == (0, 2)
    assert len(model.trainable_variables) == 3 and not model.non_trainable_variables


def test_what_is_kept_for_the_backward_pass_is_a_setting(block):
    def gradient(checkpoint):
        @tf.function(autograph=False)
        def run(h):
            with tf.GradientTape() as tape, solver_settings(checkpoint=checkpoint):
                loss = tf.reduce_sum(block(h) ** 2)
            return tape.gradient(loss, block.trainable_variables)

        return run(tf.constant(H0))

    for kept, recomputed in zip(gradient("none"), gradient("steps"), strict=True):
        np.testing.assert_allclose(kept, recomputed, rtol=1e-5)
    block.checkpoint = "none"
    assert ODEBlock.from_config(block.get_config()).checkpoint == "none"
    with pytest.raises(ValueError, match="auto, steps, none"):
        block.checkpoint = "all"


def test_inverse_undoes_the_block(block):
    block.tol = 1e-5
    np.testing.assert_allclose(block.inverse(block(H0)), H0, atol=1e-3)


def test_a_trajectory_starts_at_the_state_and_ends_at_the_output(block):
    path = block.trajectory(H0, [0.0, 0.25, 1.0])
    assert path.shape == (3, 5, 4)
    np.testing.assert_allclose(path[0], H0)
    np.testing.assert_allclose(path[2], block(H0), atol=1e-6)
    assert 0 < np.abs(path[1] - H0).max() < np.abs(path[2] - H0).max()


def test_settings_hold_inside_their_block_only(block):
    inner = ODEBlock(block.dynamics, solver="rk4", num_steps=32)
    with solver_settings(solver="rk4", num_steps=32):
        borrowed = block(H0)
    np.testing.assert_allclose(borrowed, inner(H0), rtol=1e-6)
    with record_statistics() as records:
        with solver_settings(tol=tf.constant([1e-6, 1e-4, 1e-3, 1e-2, 1.0])):
            block(H0)
        block(H0)
    each, own = (statistics.nfe.numpy() for _, statistics in records)
    assert each[0] > each[4]
    assert own[2] == each[2]
    with pytest.raises(ValueError, match="tolerance.*tol, solver, gradient"), solver_settings(tolerance=1.0):
        pass


def test_a_pair_of_unlike_shapes():
    def swing(t, state):
        a, b = state
        return tf.reduce_mean(b, axis=[1, 2])[:, None] * tf.ones_like(a), -tf.reduce_sum(a, 1)[:, None, None] * b

    a, b = ODEBlock(swing, tol=1e-5)((tf.ones([2, 3]), tf.ones([2, 2, 2])))
    assert a.shape == (2, 3) and b.shape == (2, 2, 2)


def test_xla_gives_the_same(block):
    # At a coarse tolerance another rounding may take other steps, as right as these but not the same.
    block.tol = 1e-5
    plain, compiled = (tf.function(block, autograph=False, jit_compile=jit)(H0) for jit in (False, True))
    np.testing.assert_allclose(plain, compiled, atol=1e-4)


def test_mixed_precision_keeps_the_solver_in_float32():
    seen = []

    @tf.autograph.experimental.do_not_convert
    def watched(t, h):
        seen.append(h.dtype)
        return -h

    block = ODEBlock(watched, tol=1e-4, dtype="mixed_bfloat16")
    out = block(tf.ones([2, 3]))
    assert set(seen) == {tf.bfloat16} and out.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(out, tf.float32), np.exp(-1) * np.ones([2, 3]), rtol=2e-2)


def test_stock_tfp_stays_selectable(block):
    block.tol = 1e-5
    expected = block(H0)
    with solver_settings(solver="tfp"), record_statistics() as records:
        found = block(H0)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert len(set(records[0][1].nfe.numpy())) == 1


@pytest.mark.parametrize("compiled", [False, True])
def test_failure_names_how_many_why_and_when(compiled):
    block = ODEBlock(lambda t, h: h**2, tol=1e-3)
    run = tf.function(block, autograph=False) if compiled else block
    h0 = tf.constant([[0.1], [2.0], [4.0]])
    with pytest.raises((ta.solvers.SolveError, tf.errors.InvalidArgumentError), match="(?s)solve failed for.*2.*of.*3"):
        run(h0)
    block.on_failure = "status"
    with record_statistics() as records:
        out = block(h0)
    status = records[0][1].status.numpy()
    assert status[0] == 0 and (status[1:] != 0).all() and np.isfinite(out).all()


def test_two_replicas_share_the_block():
    devices = tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([devices[0].name])
    with strategy.scope():
        block = ODEBlock(Dense(4), tol=1e-3)
        block(H0)
    block.tol = 1e-2
    out = tf.function(lambda: strategy.run(block, args=(tf.constant(H0),)), autograph=False)()
    np.testing.assert_allclose(strategy.experimental_local_results(out)[0], block(H0), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tol": 0.0}, "tol is 0.0"),
        ({"tol": -1.0}, "greater than 0"),
        ({"solver": "rk5"}, "rk5.*dopri5"),
        ({"gradient": "none"}, "backprop, backprop_steps, adjoint"),
        ({"final_time": 0.0}, "final_time is 0.0"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"on_failure": "ignore"}, "raise, status"),
    ],
)
def test_bad_arguments_are_one_clear_line(options, words):
    with pytest.raises(ValueError, match=words) as error:
        ODEBlock(Dense(4), **options)
    assert "\n" not in str(error.value)


def test_the_same_function_twice_on_a_large_state():
    """Sums of three tensors in a loop's body once failed at the second call of a large graph."""
    block = ODEBlock(lambda t, h: tf.tanh(h) - 0.5 * h + 0.1 * t, tol=1e-2)

    @tf.function(autograph=False)
    def run(h):
        with tf.GradientTape() as tape:
            tape.watch(h)
            loss = tf.reduce_sum(block(h) ** 2)
        return tape.gradient(loss, h)

    h = tf.random.stateless_normal([128, 14, 14, 64], seed=[0, 1])
    np.testing.assert_array_equal(run(h), run(h))
