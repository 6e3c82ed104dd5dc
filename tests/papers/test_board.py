"""The board: claims in one unit, ours beside them from made-up runs, and the files it is written to."""

import json
import shlex

import numpy as np
import pytest

from tests.papers.test_reproduction import add_cell, make_run
from tfode_adv import files, models
from tfode_adv.diagnosis import reader
from tfode_adv.errors import RunError
from tfode_adv.evaluation import evidence
from tfode_adv.evaluation.evidence import Pack
from tfode_adv.evaluation.records import Cell
from tfode_adv.evaluation.shards import Shard
from tfode_adv.papers import board, board_page, claims, earlier_board
from tfode_adv.published import GRADIENTS, MODELS, PAPERS

COUNT = 50


def diagnose(run, *, tol, norm="linf", eps=0.1, worst=3, label="masked", model=None):
    verdict = {"worst_case": worst, "images": 20, "set_by": "APGD", "label": label, "gradients": "honest", "left": 0.2}
    document = {
        "model": model or files.sha256(run.model_path),
        "settings": {"norm": norm, "ε": eps},
        "tolerances": [{"tol": tol, "verdict": verdict}],
        "report": [],
    }
    (run.path / "diagnosis").mkdir(exist_ok=True)
    files.write_json(run.path / "diagnosis" / "diagnosis.json", document)


def rows_of(root, name, **fields):
    found = board.rows(root, num_examples=COUNT)
    return [
        row
        for row in found
        if row.claim.attacked.model.name == name
        and all(getattr(row.claim.attacked, field) == value for field, value in fields.items())
    ]


def test_claims_are_shares_of_all_images():
    found = {
        (one.paper, one.dataset, one.attacked.model.label, one.attacked.norm, one.attacked.eps): one
        for one in claims.claims()
    }
    assert len(found) == len(claims.claims()) == 32
    # Table I: 1.2 % error at tau = 1; table II: 4 % of the rest turned.
    oon = found["wifs2019", "mnist", "OON", "linf", 0.1]
    assert (oon.attacked.tol, oon.clean) == (1.0, pytest.approx(0.988))
    assert oon.robust == pytest.approx(0.988 * 0.96) and oon.gradient == "adjoint"
    block = found["msml2022", "cifar10", "SO-block ResNet10", "linf", 0.031]
    assert (block.clean, block.robust) == (pytest.approx(0.9028), pytest.approx(0.5821))
    assert found["iclr2020", "mnist", "TisODE", "linf", 0.5].robust == 0.375
    assert found["iclr2020", "mnist", "CNN", "linf", 0.5].gradient is None


def test_ours_and_the_worst_case_stand_beside_the_claim(tmp_path):
    run = make_run(tmp_path, "oon")
    add_cell(run, turned=10, wrong=5, tol=1.0, norm="linf", eps=0.1, gradient="adjoint")
    diagnose(run, tol=1.0)
    (row,) = rows_of(tmp_path, "oon", norm="linf", eps=0.1)
    assert (row.clean.count, row.robust.count, row.worst.rate.count, row.worst.rate.total) == (45, 35, 3, 20)
    assert row.gap == pytest.approx(row.claim.robust - 0.15)
    (other,) = rows_of(tmp_path, "oon", norm="l2rms", eps=0.1)
    assert other.robust is None and other.worst is None and other.gap is None


@pytest.mark.parametrize(
    "told", [{"tol": 0.1}, {"tol": 1.0, "norm": "l2"}, {"tol": 1.0, "eps": 0.2}, {"tol": 1.0, "model": "0" * 64}]
)
def test_a_diagnosis_of_something_else_says_nothing(tmp_path, told):
    run = make_run(tmp_path, "oon")
    diagnose(run, **told)
    (row,) = rows_of(tmp_path, "oon", norm="linf", eps=0.1)
    assert row.worst is None
    assert bool(row.notes) is ("model" in told)


def test_a_diagnosis_at_a_smaller_radius_bounds_a_larger_one_and_says_so(tmp_path):
    run = make_run(tmp_path, "tisode", solver=None)
    diagnose(run, tol=None, eps=0.3, label="not robust")
    (small,), (large,) = (rows_of(tmp_path, "tisode", eps=eps) for eps in (0.3, 0.5))
    assert small.worst == large.worst
    notes = [record["footnote"] for record in board.records([small, large])]
    assert "bounds this one" not in notes[0] and "smaller radius 0.3, which bounds this one" in notes[1]


def test_a_run_s_diagnoses_at_both_norms_several_radii_and_tolerances_are_found(tmp_path):
    run = make_run(tmp_path, "oon")
    folder = run.path / "diagnosis"
    made = (("l2rms", 0.05, 9, 1.0), ("l2rms", 0.1, 5, 1.0), ("linf", 0.1, 3, 1.0), ("linf", 0.1, 7, 1e-3))
    for norm, eps, worst, tol in made:
        aside = tmp_path / "aside.json"
        if (folder / "diagnosis.json").exists():
            (folder / "diagnosis.json").rename(aside)
        diagnose(run, tol=tol, norm=norm, eps=eps, worst=worst)
        if aside.exists():
            new = (folder / "diagnosis.json").rename(tmp_path / "new.json")
            aside.rename(folder / "diagnosis.json")
            reader.keep_other(folder, files.read_json(new))
            new.rename(folder / "diagnosis.json")
    assert sorted(path.name for path in folder.iterdir()) == [
        "diagnosis.json",
        "earlier-l2rms-0.05-1.0.json",
        "earlier-l2rms-0.1-1.0.json",
        "earlier-linf-0.1-1.0.json",
    ]
    found = [rows_of(tmp_path, "oon", norm=norm, eps=0.1)[0].worst for norm in ("l2rms", "linf")]
    assert [(worst.rate.count, worst.eps) for worst in found] == [(5, 0.1), (3, 0.1)]
    # A damaged one stays, and costs the new one nothing.
    (folder / "earlier-damaged.json").write_text("{")
    # One made anew takes the earlier one's place; one of other weights is none.
    both = [{"tol": 1.0}, {"tol": 1e-3}]
    reader.keep_other(folder, {"model": "0" * 64, "settings": {"norm": "l2rms", "ε": 0.1}, "tolerances": both})
    assert not (folder / "earlier-l2rms-0.1-1.0.json").exists() and (folder / "earlier-linf-0.1-1.0.json").exists()
    assert (folder / "earlier-damaged.json").exists()


def test_fgsm_through_euler_s_own_steps_is_found_and_no_other(tmp_path):
    run = make_run(tmp_path, "tisode", solver=None)
    fields = {"solver": "euler", "norm": "linf", "eps": 0.3, "gradient": "backprop", "tol": None}
    fields |= {"steps": None, "step_size": None}
    for change in ({"num_steps": 5}, {"attack": "pgd", "num_steps": 20}, {"num_steps": 20, "gradient": "adjoint"}):
        add_cell(run, **{"attack": "fgsm", **fields, **change})
    assert rows_of(tmp_path, "tisode", eps=0.3)[0].robust is None
    add_cell(run, turned=20, attack="fgsm", num_steps=20, **fields)
    assert rows_of(tmp_path, "tisode", eps=0.3)[0].robust.count == 30


def test_commands_begin_with_the_published_checkpoint_where_there_is_one(tmp_path):
    (row,) = rows_of(tmp_path, "tisode", eps=0.3)
    programs = [shlex.split(command)[0] for command in row.commands]
    assert programs == ["bin/convert", "bin/evaluate", "bin/diagnose"]
    assert "--from=checkpoints/MNIST_tisode_gaus_1/checkpoint.pth" in row.commands[0]
    assert "--steps=1 --step_size=0.3 --gradient=backprop" in row.commands[2]
    (trained,) = rows_of(tmp_path, "oon", norm="linf", eps=0.1)
    assert [shlex.split(command)[0] for command in trained.commands] == ["bin/train", "bin/evaluate", "bin/diagnose"]


def test_a_control_has_no_claim_and_no_gap(tmp_path):
    run = make_run(tmp_path, "gains", filters=32, loss=None)
    attack = {"solver": "dopri5_cas", "tol": 0.005, "norm": "linf", "gradient": "backprop", "steps": 200}
    add_cell(run, turned=10, eps=0.15, step_size=0.0025, **attack)
    diagnose(run, tol=0.005, eps=0.15, label="credible")
    (row,) = rows_of(tmp_path, "gains", eps=0.15)
    assert row.robust.count == 40 and row.worst.label == "credible" and row.gap is None
    assert board.records([row])[0]["reported"] is None
    assert "claimed" not in board_page.write([row], tmp_path / "board").read_text().split("<article")[1]
    (missing,) = rows_of(tmp_path / "none", "gains", eps=0.2)
    assert "--mean=0.1307 --deviation=0.3081" in missing.commands[0]


def test_a_network_of_the_zoo_is_called_by_its_name(tmp_path):
    run = make_run(tmp_path, "oon")
    config = files.read_json(run.path / "config.json")
    files.write_json(run.path / "config.json", {**config, "zoo": {"name": "wifs2019/mnist_oon"}})
    (row,) = rows_of(tmp_path, "oon", norm="linf", eps=0.1)
    assert [shlex.split(command)[1] for command in row.commands] == ["--run=zoo:wifs2019/mnist_oon"] * 2


def test_records_speak_robustbench_s_terms(tmp_path):
    run = make_run(tmp_path, "oon")
    add_cell(run, turned=10, wrong=5, tol=1.0, norm="linf", eps=0.1, gradient="adjoint")
    diagnose(run, tol=1.0)
    (record,) = board.records(rows_of(tmp_path, "oon", norm="linf", eps=0.1))
    named = {
        name: record[name] for name in ("clean_acc", "reported", "autoattack_acc", "external", "unreliable", "eps")
    }
    assert named == {
        "clean_acc": "90.00",
        "reported": "94.85",
        "autoattack_acc": None,
        "external": "15.00",
        "unreliable": True,
        "eps": "0.1",
    }
    (empty,) = board.records(rows_of(tmp_path, "oon", norm="l2rms", eps=0.1))
    assert empty["external"] is None and empty["unreliable"] is None and "No diagnosis" in empty["footnote"]


def test_the_page_has_every_row_in_every_order_and_no_script(tmp_path):
    run = make_run(tmp_path / "runs", "oon")
    diagnose(run, tol=1.0)
    found = board.rows(tmp_path / "runs", num_examples=COUNT)
    page = board_page.write(found, tmp_path / "board").read_text()
    assert page.count("<article") == len(found) and "<script" not in page
    for order in range(1, 6):
        places = sorted(int(part.split(";")[0]) for part in page.split(f"--place-{order}:")[1:])
        assert places == list(range(len(found)))
    # What was measured comes first where the page opens.
    first = page.split("--place-1:0;")[1].split("</article>")[0]
    assert "masked" in first and "OON" in first
    assert len(json.loads((tmp_path / "board" / "board.json").read_text())) == len(found)
    assert board.table(found).rows[0][0] == "OON"
    assert (tmp_path / "board" / "README.md").read_text().count("bin/diagnose") == len(found)


@pytest.mark.parametrize("network", ["wifs2019/mnist_oon", None])
def test_the_evidence_of_a_zoo_s_network_lies_beside_the_page(tmp_path, network):
    run = make_run(tmp_path / "runs", "oon")
    add_cell(run, turned=10, tol=1.0, norm="linf", eps=0.1, gradient="adjoint")
    (cell,) = [Cell.open(folder) for folder in (run.path / "evaluations").iterdir()]
    image = np.zeros([2, 2, 1], np.float32)
    for index in range(3):
        cell.save_image(index, image, image)
    for count in (3, 2):
        Pack.of(cell, range(count), "0" * 64, network).write(evidence.file_of(cell, count, Shard()))
    found = board.rows(tmp_path / "runs", num_examples=COUNT)
    page = board_page.write(found, tmp_path / "board").read_text()
    named = [record["evidence"] for record in board.records(found) if record["evidence"]]
    assert named == (["evidence/wifs2019-mnist_oon-linf-0.1.npz"] if network else [])
    for name in named:
        pack = Pack.read(tmp_path / "board" / name)
        assert f'href="{name}"' in page and len(pack) == 2
        assert pack.seal in (tmp_path / "board" / "README.md").read_text()


def test_a_row_that_no_run_here_holds_stays_as_it_was(tmp_path):
    run = make_run(tmp_path / "there", "oon")
    add_cell(run, turned=10, wrong=5, tol=1.0, norm="linf", eps=0.1, gradient="adjoint")
    diagnose(run, tol=1.0)
    before = board.rows(tmp_path / "there", num_examples=COUNT)
    board_page.write(before, tmp_path / "board")
    other = make_run(tmp_path / "here", "oon")
    add_cell(other, turned=20, tol=1.0, norm="l2rms", eps=0.1, gradient="adjoint")
    after = earlier_board.completed(board.rows(tmp_path / "here", num_examples=COUNT), tmp_path / "board")
    (old,) = [record for record in board.records(before) if record["published_attack"]["ours"]]
    told = {
        record["threat_model"]: record
        for record in board.records(after)
        if record["name"] == old["name"] and record["dataset"] == "mnist"
    }
    assert told["Linf"] == old and old["clean_acc"] == "90.00"
    assert told["L2, root mean square"]["published_attack"]["ours"]["count"] == 30
    # What is measured here takes the earlier row's place whole.
    diagnose(other, tol=1.0)
    mine = rows_of(tmp_path / "here", "oon", norm="linf", eps=0.1)
    (row,) = earlier_board.completed(mine, tmp_path / "board")
    assert row.robust is None and row.worst.rate.count == 3


def test_a_damaged_board_is_told(tmp_path):
    (tmp_path / "board.json").write_text('[{"name": "x"}]')
    with pytest.raises(RunError, match=r"board\.json' is damaged: no board"):
        earlier_board.completed([], tmp_path)


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(RunError, match="exists and is no board; --overwrite"):
        board_page.write([], tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    board_page.write([], tmp_path, overwrite=True)
    board_page.write([], tmp_path)


def test_every_model_has_the_paper_that_attacked_it():
    assert {name for names in MODELS.values() for name in names} == set(models.available())
    assert set(MODELS) == set(GRADIENTS) == set(PAPERS)
