"""What must hold on any trained model: more budget never hurts, batches and seeds change nothing."""

import warnings

import numpy as np
import pytest

from tfode_adv import attacks


def rate(attack, model, victims):
    return attack(model, *victims).success.mean()


def test_success_grows_with_eps_and_reaches_everyone(classifier, victims):
    rates = [rate(attacks.PGD(eps=eps, steps=20), classifier, victims) for eps in (0.0, 0.03, 0.06, 0.12, 1.0)]
    assert rates[0] == 0
    assert rates == sorted(rates)
    assert rates[1] < rates[3]
    assert rates[-1] == 1


def test_more_steps_and_restarts_are_no_weaker(classifier, victims):
    few = rate(attacks.PGD(eps=0.07, step_size=0.02, steps=10), classifier, victims)
    many = rate(attacks.PGD(eps=0.07, step_size=0.02, steps=100), classifier, victims)
    assert many >= few
    once = attacks.PGD(eps=0.07, steps=5, random_start=True)(classifier, *victims)
    thrice = attacks.PGD(eps=0.07, steps=5, random_start=True, restarts=3)(classifier, *victims)
    assert (thrice.success >= once.success).all()
    assert (thrice.gradients >= once.gradients).all()


@pytest.mark.parametrize(
    ("name", "hyperparameters"),
    [
        ("pgd", {"eps": 0.08, "random_start": True, "restarts": 2}),
        ("spsa", {"eps": 0.08, "samples": 16, "steps": 10}),
        ("square", {"eps": 0.08, "steps": 40}),
        ("square", {"eps": 1.0, "steps": 40, "norm": "l2"}),
        ("apgd_t", {"eps": 0.06, "steps": 10, "targets": 2}),
        ("fab", {"steps": 5, "targets": 2}),
    ],
)
def test_the_batch_size_changes_nothing(classifier, victims, name, hyperparameters):
    x, y = (part[:20] for part in victims)
    whole = attacks.get(name, **hyperparameters)(classifier, x, y)
    pieces = attacks.get(name, batch_size=7, **hyperparameters)(classifier, x, y)
    np.testing.assert_array_equal(whole.success, pieces.success)
    np.testing.assert_array_equal(whole.queries, pieces.queries)
    np.testing.assert_allclose(whole.x_adv, pieces.x_adv, atol=1e-4)


def test_seeds_and_indices_name_the_random_numbers(classifier, victims):
    x, y = (part[:16] for part in victims)
    attack = attacks.PGD(eps=0.05, steps=2, random_start=True, early_stop=False)
    whole = attack(classifier, x, y).x_adv
    np.testing.assert_array_equal(whole, attack(classifier, x, y).x_adv)
    tail = attack(classifier, x[10:], y[10:], indices=np.arange(10, 16)).x_adv
    np.testing.assert_allclose(whole[10:], tail, atol=1e-6)
    other = attacks.PGD(eps=0.05, steps=2, random_start=True, early_stop=False, seed=1)
    assert np.abs(whole - other(classifier, x, y).x_adv).max() > 0.01


def test_a_sample_stops_at_its_first_success(classifier, victims):
    x, y = victims
    result = attacks.BIM(eps=0.15, step_size=0.02, steps=10)(classifier, x, y)
    early = result.success & (result.gradients < 10)
    assert early.any()
    for i in np.flatnonzero(early)[:3]:
        steps = int(result.gradients[i]) - 1
        shorter = attacks.BIM(eps=0.15, step_size=0.02, steps=steps, early_stop=False)
        assert shorter(classifier, x[i : i + 1], y[i : i + 1]).success.all()
        if steps > 1:
            shorter = attacks.BIM(eps=0.15, step_size=0.02, steps=steps - 1, early_stop=False)
            assert not shorter(classifier, x[i : i + 1], y[i : i + 1]).success.any()


def test_images_already_wrong_are_left_alone(classifier, victims):
    x, y = (part[:4] for part in victims)
    result = attacks.PGD(eps=0.1)(classifier, x, (y + 1) % 10)
    assert result.success.all()
    assert (result.distance == 0).all()
    assert (result.gradients == 0).all()


def test_a_targeted_attack_reaches_its_class(classifier, victims):
    x, y = victims
    target = (y + 3) % 10
    result = attacks.PGD(eps=0.4, steps=40, targeted=True)(classifier, x, target)
    assert result.success.mean() > 0.8
    predictions = classifier.predict(result.x_adv, verbose=0).argmax(-1)
    np.testing.assert_array_equal(predictions == target, result.success)


def test_a_grid_of_budgets_traces_once(classifier, victims):
    x, y = (part[:8] for part in victims)
    traces = []

    def model(images):
        traces.append(images)
        return classifier(images)

    for eps in (0.02, 0.05, 0.1):
        for steps in (2, 3):
            attacks.PGD(eps=eps, step_size=eps / 2, steps=steps)(model, x, y)
    assert len(traces) == 2  # one for the answers, one for the step


def test_cw_finds_nearer_images_than_pgd_needs(classifier, victims):
    x, y = (part[:16] for part in victims)
    nearest = attacks.CWL2(steps=100, binary_search_steps=3, learning_rate=0.03)(classifier, x, y)
    assert nearest.success.all()
    bounded = attacks.PGD(norm="l2", eps=float(np.median(nearest.distance)), steps=30)(classifier, x, y)
    assert 0.1 < bounded.success.mean() < 0.9


def test_autoattack_is_no_weaker_than_any_of_its_parts(classifier, victims):
    x, y = (part[:24] for part in victims)
    whole = attacks.AutoAttack(eps=0.06, steps=10, queries_square=50, targets=2)
    result = whole(classifier, x, y)
    for part in whole.parts().values():
        assert result.success.sum() >= part(classifier, x, y).success.sum()
    assert result.success.sum() == sum(turned.sum() for turned in result.stages.values())


def test_autoattack_sets_apart_what_was_wrong_from_the_start(classifier, victims):
    x, y = (part[:6].copy() for part in victims)
    y[:2] = (y[:2] + 1) % 10
    result = attacks.AutoAttack(eps=0.3, steps=5, queries_square=5, targets=1)(classifier, x, y)
    assert result.stages.pop("clean").tolist() == [True, True] + 4 * [False]
    assert not any(turned[:2].any() for turned in result.stages.values())
    assert result.success.all()


def test_autoattack_on_no_images_has_its_stages(classifier, victims):
    result = attacks.AutoAttack(eps=0.06)(classifier, *(part[:0] for part in victims))
    assert len(result.success) == 0 and all(len(turned) == 0 for turned in result.stages.values())
    assert "square" in result.stages


def test_autoattack_warns_of_models_that_only_seem_robust(victims):
    import tensorflow as tf

    x, y = (part[:4] for part in victims)
    attack = attacks.AutoAttack(eps=0.01, steps=2, queries_square=2, targets=1)
    weights = tf.constant(np.random.RandomState(0).normal(size=(196, 10)).astype(np.float32))

    def randomised(images):
        return tf.reshape(images, [-1, 196]) @ weights + tf.random.normal([10])

    def flat(images):
        return 9.0 * tf.one_hot(tf.repeat(tf.constant(y[:1]), tf.shape(images)[0]), 10) + 0.0 * images[:, 0, 0]

    rounding, calls = tf.Variable(1e-7), tf.Variable(0)

    def seldom(images):
        """One answer in four is another; or, with the first variable small, only its last bits are."""
        return tf.reshape(images, [-1, 196]) @ weights + tf.cast(calls.assign_add(1) % 4 == 0, tf.float32) * rounding

    with pytest.warns(attacks.AttackWarning, match="differently"):
        attack(randomised, x, y)
    with pytest.warns(attacks.AttackWarning, match="zero"):
        attack(flat, x, np.full(4, y[0]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attack(seldom, x, y)
    assert not any("differently" in str(warning.message) for warning in caught)
    rounding.assign(0.1)
    with pytest.warns(attacks.AttackWarning, match="differently"):
        attack(seldom, x, y)
