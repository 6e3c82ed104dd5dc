"""What a diagnosis of a model with ODE blocks looks like, made up here: no model is run."""

import dataclasses

import numpy as np
import pytest

from tfode_adv.analysis import indicators, verdict
from tfode_adv.analysis.gradients import Audit
from tfode_adv.analysis.roc import Roc
from tfode_adv.analysis.travel import Travel
from tfode_adv.analysis.verdict import Outcome
from tfode_adv.diagnosis import reader as reader
from tfode_adv.diagnosis import writer
from tfode_adv.diagnosis.attack_table import Row
from tfode_adv.diagnosis.detection import Detection, Evasion
from tfode_adv.diagnosis.measurements import Detectors, Surface
from tfode_adv.diagnosis.procedure import AtTolerance
from tfode_adv.run_folder import Run

IMAGES = 20
DIGEST = "0" * 64
CORRECT = np.arange(IMAGES) < 18


def row(source, steps, *changes):
    return Row(f"PGD-{steps}, {source}", "pgd", {"steps": steps}, source, frozenset(changes))


def at_tolerance(tol, turned, blocks=1):
    """Published attack turns `turned` images, backpropagation twelve."""
    rows = [row("adjoint", 10), row("backprop", 10, "gradient")]
    outcomes = [
        Outcome(one.name, one.changes, CORRECT, CORRECT & (np.arange(IMAGES) < count))
        for one, count in zip(rows, (turned, 12), strict=True)
    ]
    times = np.linspace(0, 1, 5)
    l2 = np.exp(times)[:, None] * np.ones(3)
    travel = [Travel(f"block{k}", times, l2, 0.1 * l2, 0.2 * l2, np.array([0, 1, 1])) for k in range(blocks)]
    ones = {"backprop": np.ones(2)}
    same = dict.fromkeys(("cosine", "sign_agreement", "relative_norm", "uphill", "reproduced", "attack_cosine"), ones)
    agrees = {"backprop": np.full(2, 0.99)}
    flags = {"varies": np.ones(2, bool), "saturated": np.zeros(2, bool)}
    shares = {"noise_change": np.zeros(2), "blind": np.zeros(2)}
    audit = Audit(
        np.arange(2),
        ["backprop"],
        {"backprop": np.ones((2, 3))},
        difference_cosine=agrees,
        step_changes=0.25,
        **same,
        **flags,
        **shares,
    )
    rates = np.array([0.0, 0.5, 1.0])
    curve = Roc(rates, rates, 0.7)
    detection = Detectors(
        [Detection("states", "PGD", 3, 0.7, 0.05, 0.5, curve)], [Evasion("states", 4, escaped=3, escaped_unaware=2)]
    )
    offsets = np.linspace(-0.1, 0.1, 3)
    signs = [indicators.unbounded_attack_fails(np.zeros(3, bool), "published")]
    return AtTolerance(
        tol,
        CORRECT,
        2.0,
        0,
        rows,
        outcomes,
        audit,
        surface=Surface(0, offsets, {"backprop": np.add.outer(offsets, offsets)}),
        travel=travel,
        detection=detection,
        indicators=signs,
        verdict=verdict.judge(CORRECT, outcomes, signs, f"at τ = {tol:g}"),
    )


@pytest.fixture
def written(tmp_path):
    found = [at_tolerance(0.1, 12), at_tolerance(1.0, 2)]
    document = writer.write(tmp_path / "diagnosis", found, {"ε": 0.1}, steps=10, model=DIGEST)
    return document, reader.read("run", Run(tmp_path, {})).sections


def test_the_gravest_verdict_is_the_runs(written):
    document, _ = written
    assert [one["verdict"]["label"] for one in document["tolerances"]] == ["credible", "masked"]
    assert (document["verdict"]["label"], document["verdict"]["tol"]) == ("masked", 1.0)


def test_a_model_that_is_not_robust_somewhere_is_not_called_credible():
    found = [at_tolerance(0.1, 12), at_tolerance(1.0, 17)]
    assert [at.verdict.label for at in found] == ["credible", "not robust"]
    assert writer.overall(found)["label"] == "not robust"


def test_every_section_is_read_back_with_its_pictures(written):
    _, sections = written
    pictures = [picture.title for section in sections for picture in section.pictures]
    assert len(sections) == 6
    for words in ("Accuracy", "Success of PGD-10", "Loss around", "L2", "cosine", "Growth", "Detection"):
        assert sum(words in title for title in pictures) >= 1, words


def test_the_table_of_attacks_ends_with_the_worst_case(written):
    _, sections = written
    rows = sections[1].tables[0].rows
    assert rows[-1][0] == "worst case per image"
    assert [rate.count for rate in rows[-1][1::2]] == [12, 12] and rows[0][3].count == 2


def test_how_many_of_how_many_were_turned_is_shown(tmp_path):
    found = [at_tolerance(0.1, 12), at_tolerance(1.0, 2)]
    tried = np.arange(IMAGES) < 5
    found[1].outcomes.append(Outcome("transfer from τ = 0.1", frozenset({"transfer"}), tried, np.arange(IMAGES) < 2))
    writer.write(tmp_path / "diagnosis", found, {}, steps=10, model=DIGEST)
    table = reader.read("run", Run(tmp_path, {})).sections[1].tables[0]
    assert table.headers == ["attack", "τ = 0.1", "turned/tried", "τ = 1", "turned/tried"]
    shown = {row[0]: row[1:] for row in table.rows}
    assert shown["transfer from τ = 0.1"][:2] == [None, None] and shown["transfer from τ = 0.1"][3] == "2/5"
    assert shown["PGD-10, adjoint"][1::2] == ["12/18", "2/18"]


def test_nothing_is_left_of_no_robustness():
    (row,) = writer.summary([at_tolerance(1.0, 18)]).rows
    assert row[4] is None and row[2].count == 0
    (row,) = writer.summary([at_tolerance(1.0, 2)]).rows
    assert row[4] == "38 %"


def test_what_took_the_rest_is_a_share_of_all_images(written):
    _, sections = written
    table = sections[0].tables[1]
    assert table.rows[0] == ["another source of the gradient", "0.0 %", "50.0 %"]
    assert table.rows[-1][0] == "together"


def test_failed_solves_and_lucky_points_are_shown(tmp_path):
    found = [dataclasses.replace(at_tolerance(1.0, 2), failed=3, by_chance=0.25), at_tolerance(0.1, 2)]
    writer.write(tmp_path / "diagnosis", found, {}, steps=10, model=DIGEST, notes=["A note."])
    lines = reader.read("run", Run(tmp_path, {})).sections[0].lines
    assert [line for line in lines if "τ" in line] == writer.remarks(found) and "A note." in lines
    failed, lucky = writer.remarks(found)
    assert "3 of 20 clean solves failed at τ = 1" in failed and "25.0 % of the planted examples at τ = 1" in lucky


def test_many_blocks_share_a_chart(tmp_path):
    found = [at_tolerance(1.0, 2, blocks=5)]
    writer.write(tmp_path / "diagnosis", found, {}, steps=10, model=DIGEST)
    section = next(one for one in reader.read("run", Run(tmp_path, {})).sections if "along t" in one.title)
    assert [picture.title for picture in section.pictures] == [
        "Relative L2 distance of clean and adversarial states by block, τ = 1"
    ]
    assert len(section.tables[0].rows) == 5
