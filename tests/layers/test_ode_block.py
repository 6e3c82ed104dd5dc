"""ODEBlock inside Keras: settings, serialisation, fit, compiled and mixed-precision calls, failure."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfode_adv as ta
from tfode_adv.errors import UsageError
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


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_stock_tfp_keeps_its_solver_in_float32(policy):
    """Half precision is the dynamics' alone: its adjoint reaches state and weights."""
    seen = []

    class Decay(keras.layers.Layer):
        def build(self, h_shape):
            self.rate = self.add_weight(shape=(), initializer="ones", name="rate")

        def call(self, h):
            seen.append(h.dtype)
            return -self.rate * h

    block = ODEBlock(Decay(dtype=policy), solver="tfp", tol=1e-3, dtype=policy)
    h0 = tf.constant([[1.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(h0)
        end = block(h0)
    assert end.dtype == block.compute_dtype and set(seen) == {tf.as_dtype(block.compute_dtype)}
    np.testing.assert_allclose(tf.cast(end, tf.float32), np.exp(-1) * h0, rtol=2e-2)
    to_start, to_rate = tape.gradient(end, [h0, block.dynamics.rate])
    np.testing.assert_allclose(to_start, np.exp([[-1, -1]]), rtol=2e-2)
    np.testing.assert_allclose(to_rate, -3 * np.exp(-1), rtol=2e-2)


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


def test_it_runs_under_a_strategy():
    """With two replicas: tests/training/test_distribution.py, in processes of two logical devices."""
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
        ({"tol": "1e-3"}, "tol is '1e-3', but must be a number"),
        ({"tol": np.array([0.1, 0.2])}, "tol is .*, but must be a number"),
        ({"tol": float("inf")}, "tol is inf"),
        ({"num_steps": 2.7}, "num_steps is 2.7, but must be a whole number"),
        ({"max_num_steps": "many"}, "max_num_steps is 'many'"),
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


def test_a_setting_is_checked_whenever_it_is_set(block):
    for name, value in {"final_time": -1.0, "on_failure": "ignore", "max_num_steps": 0, "adjoint_tol": 0.0}.items():
        with pytest.raises(UsageError, match=f"{name} is "):
            setattr(block, name, value)
    block.final_time = 0.0 + 1e-6
    np.testing.assert_allclose(block(H0), H0, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
def test_xla_tells_failure_by_nan_and_takes_one_sample(batch):
    """XLA raises nothing: a wrong number must not look like a right one."""
    growing = ODEBlock(lambda t, h: h * h, solver="heun2", tol=1e-2)
    run = tf.function(growing, jit_compile=True, autograph=False)
    h0 = np.array([[0.1], [4.0], [0.2]], np.float32)[:batch]
    np.testing.assert_array_equal(np.isnan(run(tf.constant(h0))[:, 0]), (h0 >= 1)[:, 0])
    assert not growing.supports_jit


def test_under_xla_a_tape_limits_the_number_of_steps():
    """A forward pass alone takes as many as it needs."""
    slow = ODEBlock(lambda t, h: h / h, solver="euler", num_steps=200)

    def differentiated(h):
        with tf.GradientTape() as tape:
            tape.watch(h)
            end = slow(h)
        return end, tape.gradient(end, h)

    forward, backward = (tf.function(f, jit_compile=True, autograph=False) for f in (slow, differentiated))
    h0 = tf.ones([2, 1])
    np.testing.assert_allclose(forward(h0), 2, rtol=1e-5)
    assert np.isnan(backward(h0)[0]).all()
    slow.num_steps = 128
    for found, expected in zip(backward(h0), (2, 1), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_trajectory_refuses_times_out_of_order_that_a_function_hands_in():
    block = ODEBlock(lambda t, h: -h, solver="euler", num_steps=4)
    run = tf.function(block.trajectory, autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="solution_times must not decrease.*0.2 1 0.5"):
        run(tf.ones([1, 1]), tf.constant([0.2, 1.0, 0.5]))


def test_trajectory_computes_in_the_blocks_own_numbers():
    seen = []
    block = ODEBlock(lambda t, h: seen.append(h.dtype) or -h, solver="euler", dtype="mixed_bfloat16")
    path = block.trajectory(np.ones([2, 3]), [1.0])
    assert path.dtype == block(np.ones([2, 3], np.float32)).dtype == tf.bfloat16
    assert set(seen) == {tf.bfloat16}


@pytest.mark.parametrize("state", [tf.ragged.constant([[1.0, 2.0], [3.0]]), tf.sparse.from_dense([[1.0, 0.0]])])
def test_a_state_that_is_not_dense_is_refused(block, state):
    with pytest.raises(UsageError, match=f"{type(state).__name__}, but must be dense"):
        block(state)


def test_python_numbers_reach_float64_unrounded():
    times = []
    options = {"solver": "heun2", "tol": 0.1, "final_time": 0.7, "dtype": "float64"}
    block = ODEBlock(lambda t, h: times.append(float(t[0, 0])) or tf.sin(3 * h), **options)
    own = block(H0.astype(np.float64))
    block.tol = 1e-3
    with solver_settings(tol=0.1):
        np.testing.assert_array_equal(block(H0.astype(np.float64)), own)
    times.clear()
    block.inverse(own)
    assert times[0] == 0.7


def test_an_autonomous_dynamics_needs_no_time():
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(4)
    block = ODEBlock(keras.Sequential([dense]), solver="euler")
    np.testing.assert_allclose(block(H0), H0 + dense(H0), atol=1e-6)
    assert len(block.trainable_variables) == 2
    np.testing.assert_allclose(ODEBlock(lambda h: -h, solver="euler")(H0), 0 * H0, atol=1e-7)
    t, h = keras.Input((1,)), keras.Input((4,))
    functional = keras.Model([t, h], keras.layers.Add()([h, t]))
    np.testing.assert_allclose(ODEBlock(functional, solver="euler")(H0), 2 * H0, atol=1e-6)


def test_a_state_in_a_dict():
    class Swap(keras.layers.Layer):
        def build(self, t_shape, h_shape):
            self.rate = self.add_weight(shape=(), initializer="ones")

        def call(self, t, h):
            return {"a": self.rate * h["b"], "b": -h["a"]}

    state = {"a": H0, "b": 2 * H0}
    end = ODEBlock(Swap(), solver="euler")(state)
    np.testing.assert_allclose(end["a"], 3 * H0, rtol=1e-6)
    np.testing.assert_allclose(end["b"], H0, rtol=1e-6)
