import numpy as np
import pytest

from tfode_adv.analysis import indicators, verdict


def mask(text):
    return np.array([letter == "x" for letter in text])


def test_unavailable_gradients_counts_zero_and_not_finite_ones():
    gradients = np.ones((4, 2, 2))
    gradients[0] = 0
    gradients[1, 0, 0] = np.nan
    gradients[2, 0, 0] = 0
    indicator = indicators.unavailable_gradients(gradients)
    assert indicator.value == 0.5 and not indicator.passed


def test_a_few_confident_images_do_not_make_a_saturated_loss():
    assert indicators.saturated_loss(mask("x" * 5 + "." * 15)).passed
    assert indicators.saturated_loss(mask("x" * 12 + "." * 8)).tells(0.005)


def test_gradients_along_the_loss_pass_and_others_fail():
    assert indicators.misleading_gradients(np.array([0.9, 0.99, 0.2])).passed
    assert not indicators.misleading_gradients(np.array([0.1, 0.0, 0.9])).passed
    assert indicators.irreproducible_gradients(np.ones(3)).passed
    assert not indicators.irreproducible_gradients(np.array([1.0, 0.9])).passed


def test_unstable_loss_is_capped():
    assert indicators.unstable_loss(np.array([1e9, 0.0])).value == 1
    assert indicators.unstable_loss(np.array([0.01, 0.02])).passed


def test_only_images_that_no_gradient_turned_count_for_gradient_free_attacks():
    free, based = mask("xxx......."), mask("xx........")
    assert indicators.gradient_free_wins(free, based).value == pytest.approx(0.1)
    assert indicators.gradient_free_wins(based, free).passed
    assert not indicators.black_box_wins(free, based).passed


def test_a_sample_counts_for_what_it_stands_for():
    assert indicators.gradient_free_wins(mask("xx"), mask(".."), weight=0.03).passed
    assert indicators.gradient_free_wins(mask("xx"), mask(".."), weight=0.2).value == pytest.approx(0.2)


def test_more_steps_do_not_help():
    lost = indicators.more_steps_do_not_help(mask("xx.."), mask("x.x."))
    assert lost.value == 0.25 and not lost.passed
    assert indicators.more_steps_do_not_help(mask("xx.."), mask("xxx.")).passed


def test_averaging_finds_what_a_shattered_gradient_does_not():
    few = indicators.averaging_wins(mask("xx" + "." * 38), mask("x" + "." * 39))
    assert few.passed and (few.count, few.total) == (1, 40)
    many = indicators.averaging_wins(mask("x" * 12 + "." * 28), mask("x" * 4 + "." * 36))
    assert many.value == pytest.approx(0.2) and many.tells(0.005)
    published = verdict.Outcome("PGD", frozenset(), np.ones(40, bool), np.zeros(40, bool))
    assert verdict.judge(np.ones(40, bool), [published], [many]).gradients == "shattered"


def test_failed_solves_hide_nothing():
    losses = np.array([[1.0, 1.0, 1.0], [np.nan, 2.0, 3.0], [np.nan, np.nan, 3.0]])
    assert indicators.loss_not_raised(losses).value == pytest.approx(1 / 3)
    assert indicators.incomplete_optimisation(losses, mask("...")).value == 0
    assert indicators.unstable_loss(np.array([np.nan, 0.0])).value == 0.5


def test_steps_that_end_short_of_the_radius():
    # LyaNet's attack in the Euclidean norm (Rodriguez et al., ICML 2022): ten steps of 2/255, a radius of 127/255.
    short = indicators.out_of_reach(10, 2 / 255, 127 / 255)
    assert short.value == pytest.approx(107 / 127) and not short.passed and short.group == "published"
    assert indicators.out_of_reach(10, 0.1, 1.0).passed and indicators.out_of_reach(1, 0.3, 0.3).passed
    assert indicators.out_of_reach(10, 0.1, 0.0).passed


def test_an_attack_on_another_solver_than_is_deployed():
    many = indicators.other_solver(mask("xxxx" * 5), mask("xx.." * 5))
    assert many.value == 0.5 and many.group == "published" and many.tells(0.001)
    # What falls on the published solver and stands on the deployed one is no claim.
    assert indicators.other_solver(mask("...x"), mask("xxx.")).passed


def test_more_steps_keep_helping():
    assert not indicators.more_steps_keep_helping(mask("x..."), mask("xx..")).passed
    assert indicators.more_steps_keep_helping(mask("xx.."), mask("xx..")).passed


def test_a_loss_still_rising_at_the_end_is_incomplete():
    steps = np.arange(21.0)[:, None]
    rising = indicators.incomplete_optimisation(steps, mask("."))
    assert rising.value == pytest.approx(0.5) and not rising.passed
    assert indicators.incomplete_optimisation(np.minimum(steps, 5), mask(".")).passed
    assert indicators.incomplete_optimisation(steps, mask("x")).passed


def test_a_short_run_does_not_count_its_beginning_as_its_end():
    losses = np.array([0.0, 1, 1, 1, 1])[:, None]
    assert indicators.incomplete_optimisation(losses, mask(".")).passed


def test_loss_not_raised():
    losses = np.array([[1.0, 1.0], [0.5, 2.0]])
    assert indicators.loss_not_raised(losses).value == 0.5


def test_loss_falls_with_eps():
    rising = np.array([[-3.0, -3], [-2, -2], [-1, -1]])
    assert indicators.loss_falls_with_eps(rising).value == 0
    assert indicators.loss_falls_with_eps(rising[::-1]).value == 1
    # At one of two growths, on 10 of 20 images.
    fallen = np.array([[0.0] * 20, [1.0] * 20, [0.5] * 10 + [2.0] * 10]) - 2
    found = indicators.loss_falls_with_eps(fallen)
    assert (found.value, found.count, found.total) == (0.25, 10, 20) and found.tells(0.005)
    published = verdict.Outcome("PGD", frozenset(), np.ones(20, bool), np.zeros(20, bool))
    judged = verdict.judge(np.ones(20, bool), [published], [found])
    assert (judged.label, judged.gradients) == ("masked", "shattered")
    # Misclassified in the larger ball as well, however far.
    assert indicators.loss_falls_with_eps(fallen + 1.6).value == 0


def test_unbounded_attack_must_turn_every_image():
    assert indicators.unbounded_attack_fails(mask("xxxx")).passed
    assert not indicators.unbounded_attack_fails(mask("xxx.")).passed


def test_silent_success_is_found_and_lost():
    by_step = np.array([[0, 0, 0], [1, 1, 0], [0, 1, 0]], bool)
    indicator = indicators.silent_success(by_step)
    assert indicator.value == pytest.approx(1 / 3) and not indicator.passed


def test_planted_missed():
    assert indicators.planted_missed(mask("x...")).value == 0.75


def test_a_value_that_is_no_number_fails():
    assert not indicators.irreproducible_gradients(np.array([np.nan])).passed


@pytest.mark.parametrize(
    "indicator, measurement",
    [
        (indicators.unavailable_gradients, np.zeros((0, 2))),
        (indicators.irreproducible_gradients, np.zeros(0)),
        (indicators.misleading_gradients, np.zeros(0)),
        (indicators.unbounded_attack_fails, np.zeros(0, bool)),
        (indicators.planted_missed, np.zeros(0, bool)),
        (indicators.silent_success, np.zeros((3, 0), bool)),
        (indicators.loss_falls_with_eps, np.zeros((3, 0))),
        (indicators.loss_not_raised, np.zeros((3, 0))),
    ],
)
def test_no_images_are_no_sign(indicator, measurement):
    assert indicator(measurement).passed
