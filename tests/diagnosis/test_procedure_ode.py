"""A whole diagnosis of a tiny network with an ODE block: sources, transfer, travel and detection together."""

import numpy as np
import pytest

from tfode_adv.analysis import verdict
from tfode_adv.diagnosis import attack_table, detection, measurements, procedure, writer
from tfode_adv.diagnosis import reader as reader
from tfode_adv.diagnosis.attack_table import Protocol
from tfode_adv.diagnosis.kept_pieces import KeptPieces
from tfode_adv.diagnosis.measurements import Images
from tfode_adv.diagnosis.planted_examples import Planted
from tfode_adv.run_folder import Run

TOLS = (1e-2, 1.0)
PROTOCOL = Protocol(
    "linf", eps=0.1, step_size=0.05, steps=2, gradient="adjoint", fine_tol=1.0, solver="euler", num_steps=1
)
# Compiling is what costs: attacks and a detector that go the same way as others are left out, the rest runs briefly.
KINDS = ("pgd", "square")


@pytest.fixture(scope="module")
def found(ode_probe, ode_images, tmp_path_factory):
    x, y = ode_images
    rows_of = attack_table.rows_of

    def rows(*arguments):
        return [row for row in rows_of(*arguments) if row.kind in KINDS and "restarts" not in row.options]

    def plant(bench, tol, source, correct):
        return Planted(np.ones(4, bool), np.ones(4, bool), 0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(attack_table.BUDGETS["quick"], "long", 8)
        patch.setitem(attack_table.BUDGETS["quick"], "square", {"steps": 8})
        patch.setattr(attack_table, "rows_of", rows)
        patch.setattr(measurements, "plant", plant)
        patch.setattr(detection, "SCORES", {"outputs": detection.SCORES["outputs"]})
        kept = KeptPieces(tmp_path_factory.mktemp("pieces"), {})
        return procedure.run(ode_probe, Images(x, y, 1 - x), PROTOCOL, budget="quick", tols=TOLS[::-1], kept=kept)


def test_every_tolerance_has_its_sources_and_the_strongest_turns_most(found):
    assert [at.tol for at in found] == list(TOLS)
    for at in found:
        assert at.sources == ["adjoint", "backprop", "backprop_steps", "fixed step"]
        turned = {source: at.pgd(source, PROTOCOL.own_steps).turned.sum() for source in at.sources}
        assert turned[at.strongest] == max(turned.values())


def test_what_is_said_to_be_turned_is_turned_at_that_tolerance(found, ode_probe, ode_images):
    x, y = ode_images
    for at in found:
        assert (at.correct == (ode_probe.predict(x, tol=at.tol) == y)).all()
        for row, outcome in zip(at.rows, at.outcomes, strict=False):
            images = at.adversarial[row.name]
            assert np.abs(images - x).max() <= PROTOCOL.eps + 1e-5, row.name
            assert not (outcome.turned & ~outcome.tried).any() and not (outcome.tried & ~at.correct).any()
            assert (ode_probe.predict(images, tol=at.tol) != y)[outcome.turned].all(), row.name


def test_examples_are_transferred_from_the_other_tolerance(found):
    for at, other in (found, found[::-1]):
        (transfer,) = [one for one in at.outcomes if one.changes == {"transfer"}]
        assert transfer.name == f"transfer from τ = {other.tol:g}"
        assert (transfer.tried == (at.correct & other.correct)).all()


def test_the_verdict_follows_from_attacks_and_indicators(found):
    assert any(at.verdict.published > at.verdict.worst_case for at in found)
    for at in found:
        one, published = at.verdict, at.correct & ~at.outcomes[0].turned
        assert (one.images, one.clean, one.published) == (24, at.correct.sum(), published.sum())
        assert one.worst_case == (at.correct & ~verdict.worst_case(at.outcomes)).sum()
        assert sum(one.attribution.values()) == pytest.approx(one.published - one.worst_case)
        assert 0 <= one.hidden <= one.published - one.worst_case
        groups = {indicator.group for indicator in at.indicators if not indicator.passed}
        assert (one.label == "masked") >= ("masking" in groups and one.label != "not robust")
        assert one.label in verdict.LABELS and one.label in one.sentence and f"τ = {at.tol:g}" in one.sentence
        asked = {indicator.name for indicator in at.indicators if indicator.group == "masking"}
        assert "misleading gradients (backprop_steps)" in asked and "black box beats white box" in asked


def test_perturbations_are_followed_and_looked_for(found):
    for at in found:
        turned = verdict.worst_case(at.outcomes[: len(at.rows)])
        (travel,) = at.travel
        assert travel.layer == "flow" and travel.l2.shape == (len(travel.times), min(turned.sum(), 48))
        # Before anything is integrated, the states are as far apart as the images made them.
        assert (travel.l2[0] > 0).all() and np.isfinite(travel.l2).all()
        attacks = {one.attack: one for one in at.detection.by_score()}
        assert set(attacks) == {"PGD-2, adjoint", "PGD-20, backprop", "knows the detector"}
        assert attacks["PGD-20, backprop"].images == at.pgd("backprop", 20).turned.sum()
        assert 0 <= attacks["knows the detector"].escaped <= attacks["knows the detector"].images


def test_all_of_it_is_written_and_read_back(found, tmp_path):
    document = writer.write(tmp_path / "diagnosis", found, {}, PROTOCOL.steps, "0" * 64)
    assert document["verdict"]["label"] in {at.verdict.label for at in found}
    sections = reader.read("tiny", Run(tmp_path, {})).sections
    assert len(sections) == 6 and all(section.tables for section in sections)


def test_the_attacked_solver_is_held_against_the_deployed_one(found, ode_probe, ode_images):
    x, y = ode_images
    left = attack_table.left_elsewhere(ode_probe, PROTOCOL, x, y, None)
    for at in found:
        (one,) = [one for one in at.indicators if one.name == "attacked solver is not the deployed one"]
        assert one.count == (left & at.outcomes[0].turned).sum() and one.total == at.correct.sum()
