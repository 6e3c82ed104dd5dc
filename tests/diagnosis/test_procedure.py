"""A network masked on purpose must be called masked, an honest one must not."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfode_adv.analysis import indicators, verdict
from tfode_adv.analysis.gradients import Audit
from tfode_adv.diagnosis import attack_table, measurements, procedure, writer
from tfode_adv.diagnosis import reader as reader
from tfode_adv.diagnosis.attack_table import Protocol
from tfode_adv.diagnosis.kept_pieces import KeptPieces
from tfode_adv.diagnosis.measurements import Images
from tfode_adv.diagnosis.probe import Probe
from tfode_adv.errors import RunError
from tfode_adv.run_folder import Run

PROTOCOL = Protocol("linf", eps=0.08, step_size=0.02, steps=10)


def diagnose(model, images, folder, steps=None, protocol=PROTOCOL):
    kept = KeptPieces(folder, {})
    step = steps.append if steps is not None else lambda words: None
    return procedure.run(Probe(model), images, protocol, budget="quick", tols=[1.0], kept=kept, step=step)


@pytest.fixture(scope="module")
def honest_found(honest, images, tmp_path_factory):
    return diagnose(honest, images, tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module")
def masked_found(masked, images, tmp_path_factory):
    return diagnose(masked, images, tmp_path_factory.mktemp("masked"))


def test_the_masked_network_is_called_masked(masked_found):
    (at,) = masked_found
    assert at.verdict.label == "masked"
    assert at.verdict.published == at.verdict.clean > at.verdict.worst_case
    failed = set(at.verdict.failed)
    expected = {"unavailable gradients", "misleading gradients", "gradient-free beats gradient"}
    assert expected | {"planted example missed", "unbounded attack fails"} <= failed


def test_what_the_masked_network_lost_went_to_detours_and_attacks_without_gradients(masked_found):
    (at,) = masked_found
    assert {"gradient", "gradient-free"} <= set(at.verdict.attribution)
    assert at.verdict.hidden == at.verdict.published - at.verdict.worst_case
    assert "no gradient at all" in at.verdict.sentence


@tf.custom_gradient
def deaf(logits):
    """The identity, through which small gradients do not come back: the cross-entropy's of a confident answer."""
    return tf.identity(logits), lambda gradient: tf.where(tf.abs(gradient) < 0.1, 0.0, gradient)


def test_a_saturated_loss_is_looked_for_at_every_image(honest, images, tmp_path):
    (at,) = diagnose(lambda x: deaf(3 * honest(x)), images, tmp_path)
    turned = at.turned(lambda outcome: True)
    assert at.verdict.label == "masked" and at.verdict.hidden == turned.sum()
    # More than are among those that the audit looks at.
    assert turned.sum() > turned[np.unique(at.audit.image)].sum()


def test_a_costly_attack_that_wins_alone_is_run_on_every_image_left(masked_found):
    (at,) = masked_found
    square = next(outcome for outcome in at.outcomes if outcome.name == "Square")
    assert square.tried.sum() > attack_table.BUDGETS["quick"]["gradient_free"]


def test_the_honest_network_is_not_called_masked(honest_found):
    (at,) = honest_found
    assert at.verdict.label == "credible", at.verdict.failed
    assert 0.1 * at.verdict.clean < at.verdict.published < at.verdict.clean
    assert at.verdict.left > 0.8


def test_the_honest_network_is_not_called_masked_for_a_weak_publication(honest, images, tmp_path):
    weak = Protocol("linf", eps=0.25, step_size=0.001, steps=2)
    (at,) = diagnose(honest, images, tmp_path, protocol=weak)
    assert "steps end short of the radius" in at.verdict.failed
    assert at.verdict.left < verdict.LEAST_LEFT and at.verdict.hidden == 0
    # What is left in the worst case is nothing, along the model's own gradient: there is no robustness to explain.
    assert at.verdict.label == "not robust" and at.verdict.gradients == "honest"


def test_masking_is_asked_of_the_models_own_gradient(ode_probe, ode_images, tmp_path, monkeypatch):
    """A surrogate that attacks best may have any gradient; the model's own must be the loss's."""
    x, y = ode_images
    bench = measurements.Bench(ode_probe, Images(x, y, x[:0]), PROTOCOL, "quick", [1.0], KeptPieces(tmp_path, {}))
    monkeypatch.setattr(procedure, "_indicators_of_table", lambda bench, at: [])
    asked = []
    monkeypatch.setattr(procedure, "_indicators_of_attack", lambda bench, at, *of: asked.append(of) or [])
    rows = attack_table.rows_of(ode_probe, PROTOCOL, "quick", 1.0)
    sources = list(dict.fromkeys(row.source for row in rows if row.source != "none"))
    for misleading, failing in (("fixed step", set()), ("backprop_steps", {"masking"}), ("backprop", {"evaluation"})):
        good = {source: float(source != misleading) for source in sources}
        gradients = {source: np.full((4, 2), value) for source, value in good.items()}
        agreement = {source: np.full(4, value) for source, value in good.items()}
        audit = Audit(
            image=np.arange(4),
            sources=sources,
            gradients=gradients,
            difference_cosine=agreement,
            reproduced=agreement,
            varies=np.ones(4, bool),
            blind=np.zeros(4),
            saturated=np.zeros(4, bool),
            noise_change=np.zeros(4),
            step_changes=None,
            **dict.fromkeys(("cosine", "sign_agreement", "relative_norm", "attack_cosine", "uphill"), {}),
        )
        at = procedure.AtTolerance(1.0, np.ones(24, bool), 2.0, 0, rows, [], audit, strongest="fixed step")
        found = procedure._indicators(bench, at)
        assert {one.group for one in found if not one.passed} == failing, misleading
        assert {one.name for one in found if one.group == "masking"} == {
            *(f"{name} gradients (backprop_steps)" for name in ("unavailable", "irreproducible", "misleading")),
            # Of the loss that attacks follow, whatever the gradient, and of the gradient that ours follow.
            "unavailable: loss saturated",
            "unavailable: derivatives vanish",
        }
        assert asked[-2:] == [("fixed step", "evaluation"), ("adjoint", "published")]


def test_the_exact_gradient_is_the_models_own(honest, ode_probe, failing_probe):
    def exact(probe):
        return measurements.Bench(probe, None, PROTOCOL, "quick", [None], None).exact

    # Without adaptive steps, backpropagation leaves nothing out.
    assert [exact(probe) for probe in (Probe(honest), failing_probe, ode_probe)] == [
        "own",
        "backprop",
        "backprop_steps",
    ]


def test_a_sample_that_grew_counts_for_no_more_than_its_images(masked_found):
    (at,) = masked_found
    named = {one.name: one for one in at.indicators}
    free = at.turned(lambda outcome: "gradient-free" in outcome.changes)
    own = [row.name for row in at.rows if row.source == "own"]
    white_box = at.turned(lambda outcome: outcome.name in own)
    lost = (free & ~white_box).sum() / at.correct.sum()
    assert named["gradient-free beats gradient"].value == pytest.approx(lost)
    assert named["more steps do not help"].passed


def test_a_finished_diagnosis_is_read_not_computed(honest, images, tmp_path):
    first = diagnose(honest, images, tmp_path)
    files = sorted(path.stat().st_mtime_ns for path in tmp_path.iterdir())
    steps: list[str] = []
    again = diagnose(honest, images, tmp_path, steps)
    assert again[0].verdict == first[0].verdict
    assert len(steps) <= procedure.pieces(Probe(honest), PROTOCOL, "quick", [1.0])
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.iterdir()) == files


def test_the_document_is_what_the_report_reads(masked_found, tmp_path):
    document = writer.write(tmp_path / "diagnosis", masked_found, {"ε": 0.08}, PROTOCOL.steps, "0" * 64)
    assert document["verdict"]["label"] == "masked"
    sections = reader.read("run", Run(tmp_path, {})).sections
    titles = [section.title for section in sections]
    assert titles[0] == "Is this robustness real?: run"
    assert any(picture.kind == "png" for section in sections for picture in section.pictures)
    shown = {row[0]: row[4] for section in sections[2:3] for row in section.tables[0].rows}
    assert shown["unavailable gradients"] == "fail" and shown["silent success"] == "pass"


def test_tolerances_are_looked_at_only_where_they_matter(honest, ode_probe):
    assert procedure.tolerances_of(Probe(honest), [1.0, 0.1]) == [None]
    assert procedure.tolerances_of(ode_probe, [1.0, 0.1, 1.0]) == [0.1, 1.0]


def test_groups_have_a_meaning(masked_found):
    groups = {one.group for at in masked_found for one in at.indicators}
    assert groups <= set(indicators.GROUPS)


def test_numbers_that_json_lacks_become_null():
    values = writer.plain({"a": np.float32(np.nan), "b": np.arange(2), "c": (np.inf, 1.5)})
    assert values == {"a": None, "b": [0, 1], "c": [None, 1.5]}


def test_a_tolerance_at_which_nothing_is_right_is_left_out(ode_probe, ode_images, tmp_path, monkeypatch):
    x, y = ode_images
    right = {1e-2: np.ones(len(y), bool), 1.0: np.zeros(len(y), bool)}
    monkeypatch.setattr(measurements, "clean", lambda bench, tol: measurements.Clean(right[tol], 2.0, 0))
    monkeypatch.setattr(procedure, "_attacked", lambda bench, tol, clean: pytest.fail(f"{tol} of {bench.tols}"))
    kept = KeptPieces(tmp_path, {})
    with pytest.raises(pytest.fail.Exception, match=r"0\.01 of \[0\.01\]"):
        procedure.run(ode_probe, Images(x, y, x[:0]), PROTOCOL, budget="quick", tols=right, kept=kept)


def test_nothing_to_attack_is_said_in_one_line(honest, images, tmp_path):
    wrong = dataclasses.replace(images, y=(images.y + 1) % 3, x=images.x)
    with pytest.raises(RunError, match="none of 40 images is classified correctly"):
        diagnose(honest, wrong, tmp_path)
