import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfode_adv.analysis import verdict
from tfode_adv.analysis.indicators import Indicator
from tfode_adv.analysis.verdict import Outcome

CHANGES = st.sets(st.sampled_from(sorted(verdict.CHANGES)), min_size=1).map(frozenset)


def outcome(text, *changes, name="attack"):
    turned = np.array([letter == "x" for letter in text])
    return Outcome(name, frozenset(changes), np.ones(len(text), bool), turned)


def failing(group):
    return Indicator("sign", 1.0, 0.1, False, "because", group)


def test_the_smallest_change_takes_the_image():
    outcomes = [outcome("x..."), outcome("xx..", "gradient"), outcome("xxx.", "gradient", "steps")]
    assert verdict.attribute(outcomes) == {"gradient": 1, "gradient + steps": 1}


def test_changes_of_a_size_share():
    outcomes = [outcome(".."), outcome("x.", "gradient"), outcome("xx", "gradient-free")]
    assert verdict.attribute(outcomes) == {"gradient-free": 1.5, "gradient": 0.5}


@given(st.lists(st.tuples(st.lists(st.booleans(), min_size=6, max_size=6), CHANGES), max_size=6))
def test_credit_adds_up_to_the_images_lost(others):
    outcomes = [outcome("x.....")]
    outcomes += [Outcome("", changes, np.ones(6, bool), np.array(turned)) for turned, changes in others]
    lost = (verdict.worst_case(outcomes) & ~outcomes[0].turned).sum()
    assert sum(verdict.attribute(outcomes).values()) == pytest.approx(lost)


def test_a_worst_case_far_below_the_published_attack_is_masking():
    correct = np.ones(20, bool)
    outcomes = [outcome("." * 20), outcome("x" * 15 + "." * 5, "gradient")]
    found = verdict.judge(correct, outcomes, [], "at tau = 1")
    assert found.label == "masked"
    assert found.left == pytest.approx(0.25)
    assert found.attribution == {"gradient": 15}
    assert "100.0 % of the images withstand the published attack and 25.0 % the worst case" in found.sentence
    assert "25 % of the apparent robustness is left" in found.sentence
    assert "75.0 % fell to another source of the gradient" in found.sentence
    # The published attack took another gradient than the model's own, which no indicator doubts.
    found = verdict.judge(correct, outcomes, [], behind="honest")
    assert "Gradients: honest. Verdict: masked (the gradients of what the model computes are not, but" in found.sentence


def test_signs_that_decide_are_told_from_those_that_only_failed():
    decides = [dataclasses.replace(failing("masking"), name="many", count=30, total=40, chance=0.1)]
    decides += [dataclasses.replace(failing("masking"), name="by chance", count=5, total=40, chance=0.1)]
    found = verdict.judge(np.ones(40, bool), [outcome("." * 40)], [*decides, failing("informing")])
    assert found.label == "masked"
    assert found.failed == ["many", "by chance", "sign"] and found.deciding == ["many"]


def test_an_honest_network_attacked_weakly_is_not_masked():
    correct, weak = np.ones(20, bool), outcome("." * 20)
    # What more steps or another loss turn, an attack without gradients may turn too: that is no sign of hiding.
    harder = [outcome("x" * 15 + "." * 5, "steps"), outcome("x" * 12 + "." * 8, "gradient-free")]
    found = verdict.judge(correct, [weak, *harder, outcome("." * 4 + "x" * 12 + "....", "loss")], [])
    assert found.label == "inconclusive" and found.hidden == 0
    assert "20 % of the apparent robustness is left" in found.sentence
    assert "the published attack is too weak to quote" in found.sentence
    assert found.meaning in found.sentence and found.meaning != verdict.LABELS["inconclusive"]


def test_what_takes_another_gradient_or_none_is_masking_beside_a_weak_attack():
    correct, weak = np.ones(20, bool), outcome("." * 20)
    for change in sorted(verdict.HIDING):
        hiding = outcome("." * 10 + "x" * 10, change)
        found = verdict.judge(correct, [weak, outcome("x" * 10 + "." * 10, "steps"), hiding], [])
        assert (found.label, found.hidden) == ("masked", 10)
    # With another gradient and another loss at once, the gradient was needed too.
    assert verdict.judge(correct, [weak, outcome("x" * 20, "gradient", "loss")], []).label == "masked"


def test_weak_attacks_of_ours_are_told_from_a_weak_published_one():
    found = verdict.judge(np.ones(4, bool), [outcome("x...")], [failing("evaluation")])
    assert found.meaning == verdict.LABELS["inconclusive"]


def test_a_difference_of_chance_is_not_masking():
    outcomes = [outcome("xxxxx....."), outcome("xxxxxx....", "steps")]
    assert verdict.judge(np.ones(10, bool), outcomes, []).label == "credible"


def test_a_loss_that_would_count_of_more_images_is_not_credible():
    # Two of seven: 71 % of the apparent robustness is left, which of 70 images would be masking.
    few = verdict.judge(np.ones(20, bool), [outcome("x" * 13 + "." * 7), outcome("x" * 15 + "." * 5, "gradient")], [])
    assert (few.label, few.meaning) == ("inconclusive", verdict.TOO_FEW)
    assert "look at more images" in few.sentence
    many = verdict.judge(
        np.ones(200, bool), [outcome("x" * 130 + "." * 70), outcome("x" * 150 + "." * 50, "gradient")], []
    )
    assert many.label == "masked"


def test_failed_indicators_decide_where_the_attacks_agree():
    correct, outcomes = np.ones(4, bool), [outcome("x...")]
    assert verdict.judge(correct, outcomes, []).label == "credible"
    assert verdict.judge(correct, outcomes, [failing("published")]).label == "credible"
    weak = verdict.judge(correct, outcomes, [failing("evaluation")])
    assert weak.label == "inconclusive" and weak.sentence.endswith("; failed: sign.")
    assert verdict.judge(correct, outcomes, [failing("evaluation"), failing("masking")]).label == "masked"


def test_a_broken_model_has_nothing_to_mask():
    assert verdict.judge(np.ones(20, bool), [outcome("x" * 20)], []).left is None
    assert verdict.judge(np.ones(20, bool), [outcome("x" * 20)], [failing("masking")]).label == "not robust"


def test_robust_shares_are_of_all_images():
    correct = np.array([True, True, False, False])
    found = verdict.judge(correct, [outcome("x...")], [])
    assert (found.images, found.clean, found.published, found.worst_case) == (4, 2, 1, 1)
    assert "25.0 % of the images withstand the published attack" in found.sentence


def test_no_images_give_a_verdict_all_the_same():
    assert verdict.judge(np.zeros(0, bool), [outcome("")], []).clean == 0


def test_what_another_loss_turns_needs_no_attack_without_gradients():
    outcomes = [outcome(".."), outcome("xx", "steps", "loss"), outcome("xx", "gradient-free")]
    assert verdict.attribute(outcomes) == {"steps + loss": 2}
    assert verdict.judge(np.ones(2, bool), outcomes, []).hidden == 0


def test_one_of_many_indicators_fails_by_chance_and_does_not_decide():
    correct, outcomes = np.ones(4, bool), [outcome("x...")]

    def counted(count):
        return Indicator("unavailable gradients", count / 24, 0.05, False, "because", "masking", count, 24, 0.05)

    others = [Indicator("sign", 0.0, 0.1, True, "because", "masking")] * 9
    assert verdict.judge(correct, outcomes, [counted(2), *others]).label == "credible"
    found = verdict.judge(correct, outcomes, [counted(8), *others])
    assert (found.label, found.gradients) == ("masked", "absent")


def test_the_two_questions_are_answered_apart():
    correct = np.ones(20, bool)
    absent = Indicator("unavailable gradients", 1.0, 0.05, False, "because", "masking")
    outcomes = [outcome("." * 20), outcome("x" + "." * 19, "gradient-free", name="Square")]
    found = verdict.judge(correct, outcomes, [absent])
    assert (found.label, found.gradients, found.worst_case, found.set_by) == ("masked", "absent", 19, "Square")
    assert found.interval == pytest.approx((0.7639, 0.9911), abs=1e-4)
    assert (
        "Robustness left: at most 95.0 % (76.4 to 99.1 %, 20 images); of all attacks, Square turned most"
        in found.sentence
    )
    assert "Gradients: absent" in found.sentence


def test_a_saturated_loss_hides_what_another_finds():
    correct, outcomes = np.ones(20, bool), [outcome("." * 20), outcome("x" * 10 + "." * 10, "loss")]
    assert verdict.judge(correct, outcomes, []).label == "inconclusive"
    assert verdict.judge(correct, outcomes, [], saturated=correct).label == "masked"
    # A restart leaves the place where the published attack has no way to go.
    outcomes = [outcome("." * 20), outcome("x" * 10 + "." * 10, "steps")]
    assert verdict.judge(correct, outcomes, []).label == "inconclusive"
    found = verdict.judge(correct, outcomes, [], saturated=correct)
    assert (found.hidden, found.gradients) == (10, "absent")


def test_what_falls_to_honest_gradients_is_not_robust():
    assert verdict.judge(np.ones(20, bool), [outcome("x" * 10 + "." * 10), outcome("x" * 20, "steps")], []).label == (
        "not robust"
    )


def test_sign_test_counts_coins():
    assert verdict.sign_test(0, 0) == 1
    assert verdict.sign_test(5, 0) == pytest.approx(1 / 32)
    assert verdict.sign_test(2, 1) == pytest.approx(0.5)
