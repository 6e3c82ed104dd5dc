import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import attacks
from tfode_adv.analysis.verdict import CHANGES, Outcome
from tfode_adv.diagnosis import attack_table
from tfode_adv.diagnosis.attack_table import Protocol
from tfode_adv.diagnosis.probe import Probe
from tfode_adv.errors import UsageError

PROTOCOL = Protocol("linf", eps=0.1, step_size=0.025, steps=10)


def names(rows):
    return {row.name: row.changes for row in rows}


def test_a_model_without_blocks_has_one_gradient_source(honest):
    rows = attack_table.rows_of(Probe(honest), PROTOCOL, "full")
    assert {row.source for row in rows} == {"own", "none"}
    assert rows[0].name == "PGD-10" and rows[0].changes == frozenset()


@pytest.mark.parametrize("published", ["adjoint", "backprop"])
def test_rows_say_in_what_they_differ_from_the_published_attack(ode_probe, published):
    other = {"adjoint": "backprop", "backprop": "adjoint"}[published]
    protocol = Protocol("linf", 0.1, 0.025, gradient=published)
    rows = names(attack_table.rows_of(ode_probe, protocol, "full", tol=1.0))
    assert rows[f"PGD-10, {published}"] == set()
    assert rows[f"PGD-10, {other}"] == {"gradient"}
    assert rows["PGD-10, fixed step"] == rows["PGD-10, fine tolerance"] == {"gradient"}
    assert rows[f"PGD-100, {published}"] == {"steps"}
    assert rows[f"PGD-20, {other}"] == {"gradient", "steps"}
    assert rows["SPSA"] == rows["Square"] == {"gradient-free"}
    assert rows["CW, backprop"] == ({"loss"} if published == "backprop" else {"gradient", "loss"})
    assert set().union(*rows.values()) <= set(CHANGES)


@pytest.mark.parametrize("budget", attack_table.BUDGETS)
@pytest.mark.parametrize("steps", [1, 10, 25, 50, 100])
def test_no_row_is_there_twice(ode_probe, budget, steps):
    protocol = Protocol("linf", 0.1, 0.025, steps=steps, gradient="backprop")
    rows = attack_table.rows_of(ode_probe, protocol, budget, tol=1.0)
    plain = {row.options["steps"] for row in rows if row.kind == "pgd" and row.source == "backprop"}
    assert len({row.name for row in rows}) == len(rows)
    own = max(steps, 10)
    assert plain == {steps, own, 2 * own, max(100, 4 * own)}


def test_a_fine_tolerance_is_not_told_apart_from_itself(ode_probe):
    sources = attack_table.sources_of(ode_probe, PROTOCOL, tol=1e-4)
    assert "fine tolerance" not in sources and sources[0] == "adjoint"


@pytest.mark.parametrize("budget", attack_table.BUDGETS)
@pytest.mark.parametrize("norm", ["linf", "l2", "l2rms"])
def test_every_row_is_an_attack_there_is(ode_probe, budget, norm):
    for row in attack_table.rows_of(ode_probe, Protocol(norm, 0.1, 0.025), budget, tol=1.0):
        attacks.get(row.kind, norm=norm, eps=0.1, **row.options)


def test_unknown_budgets_and_gradients_are_refused(honest):
    with pytest.raises(UsageError, match="huge.*quick, full"):
        attack_table.rows_of(Probe(honest), PROTOCOL, "huge")
    with pytest.raises(UsageError, match="adjoint"):
        Protocol("linf", 0.1, 0.025, gradient="magic")


def test_a_row_runs_at_its_tolerance_and_puts_the_blocks_back(ode_probe, ode_images):
    x, y = ode_images
    tried = np.arange(24) % 2 == 0
    row = attack_table.rows_of(ode_probe, PROTOCOL, "quick", tol=1.0)[1]
    outcome, x_adv, queries = attack_table.run_row(row, ode_probe, PROTOCOL, x, y, tried, 1.0)
    block = ode_probe.blocks[0]
    assert (block.tol, block.gradient, block.on_failure) == (1e-2, "backprop", "raise")
    assert not outcome.turned[~tried].any() and (x_adv[~tried] == x[~tried]).all()
    assert ((ode_probe.predict(x_adv, tol=1.0) != y) == outcome.turned)[tried].all()
    assert np.abs(x_adv - x).max() <= 0.1 + 1e-6 and queries > 0


@pytest.mark.parametrize(("draws", "expected"), [(1, {"none", "student"}), (8, {"own", "straight through"})])
def test_where_a_gradient_looks_hidden_what_is_left_is_tried_last(honest, draws, expected):
    probe = Probe(honest)
    assert not any(row.last for row in attack_table.rows_of(probe, PROTOCOL, "quick"))
    probe.detours, probe.draws = dict.fromkeys(("student", "straight through"), lambda: honest), draws
    rows = attack_table.rows_of(probe, PROTOCOL, "quick")
    last = [row for row in rows if row.last]
    assert {row.source for row in last} == expected and rows[-len(last) :] == last
    assert len({row.name for row in rows}) == len(rows)
    if draws > 1:
        assert all(row.runs * draws == 32 for row in last)


def test_what_is_left_of_a_randomised_model_is_tried_with_more_runs_hidden_or_not(honest):
    probe = Probe(honest)
    probe.draws = 8
    last = [row for row in attack_table.rows_of(probe, PROTOCOL, "quick") if row.last]
    assert {(row.source, row.runs) for row in last} == {("own", 4)}


def test_a_randomised_model_s_lucky_runs_turn_no_image():
    """Every run errs with probability 0.38, whatever the image: most of fifteen runs do for one image in six."""

    def answers(x):
        flipped = tf.random.uniform([tf.shape(x)[0]]) < 0.38
        return tf.one_hot(tf.cast(flipped, tf.int32), 2, 5.0, -5.0) + 0 * tf.reduce_sum(x, [1, 2, 3])[:, None]

    tf.random.set_seed(0)
    image = keras.Input((2, 2, 1))
    probe = Probe(keras.Model(image, keras.layers.Lambda(answers)(image)))
    probe.draws = 8
    x, y = np.full((300, 2, 2, 1), 0.5, np.float32), np.zeros(300, np.int64)
    row = next(row for row in attack_table.rows_of(probe, PROTOCOL, "quick") if row.kind == "pgd" and row.changes)
    outcome, *_ = attack_table.run_row(row, probe, PROTOCOL, x, y, np.ones(300, bool), None)
    assert outcome.turned.mean() < 0.04


def test_decisions_alone_are_enough_to_turn_what_has_no_gradient(honest, images):
    probe, protocol = Probe(lambda x: tf.one_hot(tf.argmax(honest(x), -1), 3)), Protocol("linf", 0.25, 0.05)
    probe.detours = {"student": lambda: honest}
    rays = [row for row in attack_table.rows_of(probe, protocol, "quick") if row.kind == "rays"]
    x, y = images.x[:4], images.y[:4]
    for row in rays:
        outcome, _, queries = attack_table.run_row(row, probe, protocol, x, y, np.ones(4, bool), None)
        assert outcome.turned.all() and queries > 0


def test_a_failed_solve_is_not_turned(failing_probe):
    # One step carries the first pixel to where the solve fails and the last good state has the other class.
    x, y, tried = np.float32([[[[0.1], [0.2]]]]), np.array([1]), np.array([True])
    row = attack_table.Row("PGD-1", "pgd", {"steps": 1, "step_size": 0.5}, "backprop", frozenset())
    outcome, x_adv, _ = attack_table.run_row(row, failing_probe, Protocol("linf", 0.5, 0.5), x, y, tried, None)
    np.testing.assert_allclose(x_adv, [[[[0.6], [0.0]]]], atol=1e-6)
    assert not outcome.turned.any()
    (moved,) = attack_table.transferred(failing_probe, y, tried, None, {0.1: (tried, x_adv)})
    assert moved.tried.all() and not moved.turned.any()


@pytest.mark.parametrize("budget", attack_table.BUDGETS)
def test_the_euclidean_attack_can_carry_a_pixel_across_its_range(honest, budget):
    rows = attack_table.rows_of(Probe(honest), Protocol("l2", 1.0, 0.25), budget)
    (options,) = [row.options for row in rows if row.kind == "cw"]
    assert options["steps"] >= 100 and options["steps"] * options["learning_rate"] >= 5


def test_transferred_examples_are_judged_where_they_arrive(ode_probe, ode_images):
    x, y = ode_images
    correct, made = np.ones(24, bool), np.arange(24) < 12
    examples = {1e-2: (made, 1 - x), 1.0: (made, 1 - x)}
    (outcome,) = attack_table.transferred(ode_probe, y, correct, 1.0, examples)
    assert outcome.name.endswith("0.01") and outcome.changes == {"transfer"}
    np.testing.assert_array_equal(outcome.turned, made & (ode_probe.predict(1 - x, tol=1.0) != y))


def test_a_single_published_step_is_no_measure_for_the_other_attacks(ode_probe):
    one = Protocol("linf", 0.3, 0.3, steps=1, gradient="backprop")
    rows = {row.name: row for row in attack_table.rows_of(ode_probe, one, "quick", 1.0)}
    assert not rows["PGD-1, backprop"].changes and rows["PGD-1, adjoint"].changes == {"gradient"}
    assert rows["PGD-10, backprop"].changes == {"steps"} and rows["PGD-10, adjoint"].changes == {"gradient", "steps"}
    assert rows["PGD-20, backprop"].options["step_size"] == pytest.approx(2.5 * 0.3 / 20)
    assert rows["MIM, backprop"].options["steps"] == 20 and "PGD-2, backprop" not in rows
    # Ten steps of a fiftieth of the radius do not reach it; ours do.
    short = Protocol("linf", 0.3, 0.006, steps=10, gradient="backprop")
    (twice,) = [row for row in attack_table.rows_of(ode_probe, short, "quick", 1.0) if row.name == "PGD-20, backprop"]
    assert 20 * twice.options["step_size"] > 0.3


def test_costly_attacks_look_at_what_the_published_one_left():
    correct = np.arange(100) > 0
    published = Outcome("PGD", frozenset(), correct, correct & (np.arange(100) % 2 == 0))
    chosen = attack_table.costly_images(correct, published, "quick")
    assert chosen.sum() == attack_table.BUDGETS["quick"]["gradient_free"]
    assert not (chosen & (published.turned | ~correct)).any()
    np.testing.assert_array_equal(attack_table.costly_images(correct, published, "full"), correct)


def test_what_the_published_attack_left_is_told_by_the_solver_that_was_attacked(ode_probe, ode_images):
    x, y = ode_images
    short = {"eps": 0.1, "step_size": 0.05, "steps": 2, "gradient": "backprop"}
    protocol = Protocol("linf", **short, solver="euler", num_steps=1)
    left = attack_table.left_elsewhere(ode_probe, protocol, x, y, 1e-2)
    wrong = ode_probe.predict(x, solver="euler", num_steps=1) != y
    assert not left[wrong].any() and left.any()
    assert protocol.attacked_words == "euler, 1 steps"
    for solver, steps, words in (
        ("magic", 1, "attacked solver"),
        (None, 3, "no solver is named"),
        ("dopri5", 3, "steps"),
        ("rk4", None, "fixed steps: say how many"),
    ):
        with pytest.raises(UsageError, match=words):
            Protocol("linf", **short, solver=solver, num_steps=steps)
