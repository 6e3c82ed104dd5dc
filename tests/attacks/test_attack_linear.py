"""On a linear model the optimal perturbation is known: the attacks find it."""

import numpy as np
import pytest

from tfode_adv import attacks

NORMS = ("linf", "l2", "l2rms")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["fgsm", "bim", "pgd", "mim"])
def test_bounded_attacks_take_the_steepest_way(linear, name, norm):
    near, far = 0.95 * linear.distance(norm), 1.05 * linear.distance(norm)
    result = attacks.get(name, norm=norm, eps=far, early_stop=False)(linear, linear.x, linear.y)
    assert result.success.all()
    np.testing.assert_allclose(result.x_adv - linear.x, [linear.best(norm, far)] * 3, atol=1e-5)
    np.testing.assert_allclose(result.distance, far, rtol=1e-4)
    assert not attacks.get(name, norm=norm, eps=near)(linear, linear.x, linear.y).success.any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["apgd", "apgd_dlr", "apgd_t"])
def test_apgd_separates_just_above_from_just_below(linear, name, norm):
    for factor, expected in ((1.02, True), (0.98, False)):
        attack = attacks.get(name, norm=norm, eps=factor * linear.distance(norm), steps=30)
        assert (attack(linear, linear.x, linear.y).success == expected).all()


@pytest.mark.parametrize(
    ("name", "norm", "hyperparameters", "slack"),
    [
        ("cw", "l2", {"steps": 400, "learning_rate": 0.01}, 0.03),
        ("cw", "l2rms", {"steps": 400, "learning_rate": 0.01}, 0.03),
        ("cwlinf", "linf", {"learning_rate": 0.001}, 0.15),
        ("fab", "linf", {"steps": 20}, 0.01),
        ("fab", "l2", {"steps": 20}, 0.01),
        ("fab", "l2rms", {"steps": 20, "targets": None}, 0.01),
        ("deepfool", "linf", {}, 0.03),
        ("deepfool", "l2", {}, 0.03),
    ],
)
def test_minimal_attacks_find_the_distance(linear, name, norm, hyperparameters, slack):
    if name == "deepfool":
        pytest.importorskip("foolbox")
    result = attacks.get(name, norm=norm, **hyperparameters)(linear, linear.x, linear.y)
    assert result.success.all()
    optimum = linear.distance(norm)
    assert (result.distance >= 0.999 * optimum).all()
    assert (result.distance <= (1 + slack) * optimum).all()


def test_a_minimal_attack_with_eps_judges_inside_the_ball(linear):
    optimum = linear.distance("l2")
    for factor, expected in ((1.1, True), (0.9, False)):
        result = attacks.FAB(norm="l2", eps=factor * optimum, steps=20)(linear, linear.x, linear.y)
        assert (result.success == expected).all()
        assert (result.distance <= factor * optimum * (1 + 1e-5)).all()


@pytest.mark.parametrize(("targets", "each"), [(1, 1), (None, 2)])
def test_fab_without_targets_costs_a_gradient_a_class(linear, targets, each):
    result = attacks.FAB(norm="l2", steps=4, targets=targets)(linear, linear.x, linear.y)
    assert result.gradients.tolist() == [4 * each] * 3
    # Besides: each step's own check, and the first and the last pass.
    assert result.queries.tolist() == [4 * (each + 1) + 2] * 3


def test_fab_projects_onto_the_hyperplane_within_the_box():
    """Against a fine search along t: sorted meeting points find the same shortest step."""
    import tensorflow as tf

    from tfode_adv.attacks import fab

    generator = np.random.RandomState(0)
    x, normal = generator.uniform(size=(2, 4, 50)).astype(np.float32)
    normal -= 0.5
    offset = (generator.normal(size=4) * 2).astype(np.float32)
    for kind in ("linf", "l2"):
        step = fab.to_hyperplane(tf.constant(x), tf.constant(normal), tf.constant(offset), kind).numpy()
        assert (x + step >= -1e-6).all()
        assert (x + step <= 1 + 1e-6).all()
        way = np.sign(normal) * np.sign(offset)[:, None]
        room = np.where(way > 0, 1 - x, x)
        most = (np.abs(normal) * room).sum(-1)
        reached = (normal * step).sum(-1)
        np.testing.assert_allclose(np.abs(reached), np.minimum(np.abs(offset), most), rtol=1e-4)
        pace = np.ones_like(normal) if kind == "linf" else np.abs(normal)
        for row in np.flatnonzero(np.abs(offset) < most):
            t = np.linspace(0, 4, 8001)[:, None]
            gain = (np.abs(normal[row]) * np.minimum(t * pace[row], room[row])).sum(-1)
            expected = way[row] * np.minimum(t[np.argmax(gain >= abs(offset[row]))] * pace[row], room[row])
            np.testing.assert_allclose(step[row], expected, atol=1e-3)
