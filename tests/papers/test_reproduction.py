"""The papers' tables from made-up run folders."""

import json
import shlex
import sys

import pytest

from tests.evaluation.making import make_record
from tfode_adv import files
from tfode_adv.errors import UsageError
from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.evaluation.records import Cell
from tfode_adv.papers import layouts
from tfode_adv.papers.reproduction import Shelf, all_commands, reproduce
from tfode_adv.run_folder import Run

IMAGES = 50


def make_run(root, name, dataset="mnist", **flags):
    flags = {"filters": 64, "loss": "cross_entropy", "epochs": 3, **flags}
    folder = root / f"{name}-{len(list(root.glob('*')))}"
    run = Run.create(folder, {"model": {"name": name}, "dataset": {"name": dataset}, "flags": flags, "seed": 0})
    run.model_path.write_bytes(folder.name.encode())
    return run


def add_cell(run, turned=0, wrong=0, count=IMAGES, steps=10, step_size=0.05, attack="pgd", **settings):
    settings = {"solver": "dopri5", "dataset": "mnist", **settings}
    if "eps" in settings:
        hyperparameters = {"steps": steps, "step_size": step_size, "random_start": False, "restarts": 1}
        settings |= {"attack": attack, "hyperparameters": {**hyperparameters, "early_stop": True}}
    cell = Cell.of(run.path, Configuration(files.sha256(run.model_path), **settings))
    clean = [{"clean": 4, "adversarial": 4} if i >= count - wrong else {} for i in range(count)]
    cell.append([make_record(i, success=i < turned, **clean[i]) for i in range(count)])


def shelf(root, dataset="mnist", gradient="adjoint", count=IMAGES, wanted=()):
    return Shelf(root, dataset, count, gradient, wanted=wanted)


def entry(table, *labels, tol):
    (row,) = [row for row in table.rows if tuple(row[: len(labels)]) == labels]
    return row[list(table.headers).index(f"τ = {tol}")]


def test_the_published_files_are_packaged_as_they_are(shared):
    for paper in ("wifs2019", "msml2022"):
        assert layouts.published(paper) == json.loads((shared / "published" / f"{paper}.json").read_text())


def test_table_2_has_the_papers_layout():
    layout = layouts.layout("wifs2019", 2, "mnist")
    assert layout.headers == ["norm", "ε", "model", "τ = 1e-4", "τ = 1e-3", "τ = 1e-2", "τ = 1e-1", "τ = 1e0"]
    assert [labels for labels, _ in layout.rows][:4] == [
        ["l2rms", "0.05", "RES"],
        ["l2rms", "0.05", "MIX"],
        ["l2rms", "0.05", "OON"],
        ["l2rms", "0.1", "RES"],
    ]
    assert "l2rms is the paper's L2: root mean square" in layout.note
    assert len(layout.rows) == 18 and len(layout.measurements) == 2 * 3 * (1 + 5 + 5)
    first = layout.measurements[0]
    assert (first.norm, first.eps, first.steps, first.step_size, first.tol) == ("l2rms", 0.05, 10, 0.05, None)


@pytest.mark.parametrize(("table", "dataset", "count"), [(1, "mnist", 13), (1, "cifar10", 13), (3, "cifar10", 66)])
def test_other_tables_have_all_their_entries(table, dataset, count):
    assert len(layouts.layout("wifs2019", table, dataset).measurements) == count


def test_table_4_sets_error_beside_success():
    layout = layouts.layout("wifs2019", 4, "cifar10")
    assert [labels for labels, _ in layout.rows] == [
        [quantity, model] for quantity in ("error", "success") for model in ("RES", "MIX", "OON")
    ]
    assert layout.measurements[-1].published == 0.28 and layout.measurements[-1].norm == "linf"


def test_msml_has_three_columns_a_row():
    layout = layouts.layout("msml2022", 1, "cifar10")
    assert len(layout.rows) == 16 and len(layout.measurements) == 48
    labels, (natural, linf, l2) = layout.rows[0]
    assert labels == ["pgd20", "32", "SONet"] and natural.published == pytest.approx(0.8808)
    assert (linf.norm, linf.eps, linf.step_size, linf.steps, linf.tol) == ("linf", 0.031, 0.003, 20, 0.1)
    assert (l2.norm, l2.eps, l2.step_size) == ("l2", 0.5, 0.1)


@pytest.mark.parametrize(
    "asked",
    [("wifs2019", 5, "mnist"), ("wifs2019", 2, "cifar10"), ("msml2022", 1, "mnist"), ("nips", 1, "mnist")],
)
def test_a_table_that_is_not_there_is_refused(asked):
    with pytest.raises(UsageError):
        layouts.layout(*asked)


def test_tables_say_which_attack_along_which_gradient(tmp_path):
    def table(paper, number, dataset, gradient):
        return reproduce(layouts.layout(paper, number, dataset), shelf(tmp_path, dataset, gradient)).table

    titles = {gradient: table("wifs2019", 2, "mnist", gradient).title for gradient in ("adjoint", "backprop")}
    assert titles["adjoint"] == "WIFS 2019, table II: attack success rate on mnist, PGD-10, gradient: adjoint"
    assert titles["backprop"].endswith("gradient: backprop")
    assert table("wifs2019", 2, "mnist", "adjoint").name == "adjoint"
    assert "l2rms is the paper's L2" in table("wifs2019", 2, "mnist", "adjoint").note
    assert "(l2rms, ε = 0.1)" in table("wifs2019", 4, "mnist", "adjoint").title
    assert "l2: Euclidean norm." in table("msml2022", 1, "cifar10", "backprop_steps").note
    # Of clean images no gradient was taken.
    clean = table("wifs2019", 1, "mnist", "adjoint")
    assert not clean.name and not any("gradient" in words for words in (clean.title, clean.note))


def test_the_run_with_most_of_the_entries_is_taken_not_the_newest(tmp_path):
    layout = layouts.layout("wifs2019", 2, "mnist")
    model = layouts.wifs_model("oon", "mnist")
    full, half, empty = (make_run(tmp_path, "oon") for _ in range(3))
    attack = {"norm": "linf", "eps": 0.1, "gradient": "adjoint"}
    for tol in (0.1, 1.0):
        add_cell(full, tol=tol, **attack)
    add_cell(half, tol=1.0, **attack)
    # Another gradient's, or of too few images, is no entry.
    add_cell(empty, tol=1e-3, **{**attack, "gradient": "backprop"})
    add_cell(empty, tol=1e-2, count=IMAGES - 1, **attack)
    where = shelf(tmp_path, wanted=layout.measurements)
    found = reproduce(layout, where)
    assert where.run_of(model).path == full.path and found.entries == 2
    (note,) = [note for note in found.notes if note.startswith("OON")]
    assert str(full.path) in note and "of 3 such runs the newest that holds most of these entries, 2 of 30" in note
    # Of those that hold as many, the newest.
    add_cell(half, tol=0.1, **attack)
    assert shelf(tmp_path, wanted=layout.measurements).run_of(model).path == half.path
    backprop = shelf(tmp_path, gradient="backprop", wanted=layout.measurements)
    assert backprop.run_of(model).path == empty.path
    none = shelf(tmp_path, gradient="backprop_steps", wanted=layout.measurements)
    assert none.run_of(model).path == empty.path and none.choice(model) == "the newest of 3 such runs"


def test_damaged_records_of_one_run_do_not_hide_another(tmp_path):
    layout = layouts.layout("wifs2019", 2, "mnist")
    good, bad = make_run(tmp_path, "oon"), make_run(tmp_path, "oon")
    for run in (good, bad):
        add_cell(run, tol=1.0, norm="linf", eps=0.1, gradient="adjoint")
    next(bad.path.glob("evaluations/*/cell.json")).write_text("{")
    where = shelf(tmp_path, wanted=layout.measurements)
    assert where.run_of(layouts.wifs_model("oon", "mnist")).path == good.path


def test_ours_stand_beside_the_published_and_deviations_are_marked(tmp_path):
    run = make_run(tmp_path, "oon")
    add_cell(run, turned=6, tol=0.1, norm="linf", eps=0.1, gradient="adjoint")
    add_cell(run, turned=40, tol=1.0, norm="linf", eps=0.1, gradient="adjoint")
    found = reproduce(layouts.layout("wifs2019", 2, "mnist"), shelf(tmp_path))
    agreeing, deviating = (entry(found.table, "linf", "0.1", "OON", tol=tol) for tol in ("1e-1", "1e0"))
    assert str(agreeing) == "0.12 (0.06–0.24) [0.05]*" and agreeing.published == 0.05
    assert str(deviating) == "0.80 (0.67–0.89) [0.04]*"
    assert str(entry(found.table, "linf", "0.1", "OON", tol="1e-4")) == "– [0.12]"
    assert (found.entries, found.deviations, len(found.missing)) == (2, 2, 64)
    # Three of fifty, with 5 % in print, is no deviation.
    add_cell(run, turned=3, tol=0.01, norm="linf", eps=0.1, gradient="adjoint")
    again = reproduce(layouts.layout("wifs2019", 2, "mnist"), shelf(tmp_path))
    assert str(entry(again.table, "linf", "0.1", "OON", tol="1e-2")) == "0.06 (0.02–0.16) [0.04]"
    assert again.deviations == 2


def test_only_the_published_attack_counts(tmp_path):
    run = make_run(tmp_path, "oon")
    wanted = {"tol": 1.0, "norm": "linf", "eps": 0.1, "gradient": "adjoint"}
    for change in (
        {"gradient": "backprop"},
        {"norm": "l2"},
        {"eps": 0.2},
        {"steps": 20},
        {"step_size": 0.01},
        {"gradient_tol": 1e-5},
        {"split": "validation"},
        {"solver": "bosh3"},
        {"dataset": "mnist_5k"},
        {"count": IMAGES - 1},
    ):
        add_cell(run, **{**wanted, **change})
    assert not reproduce(layouts.layout("wifs2019", 2, "mnist"), shelf(tmp_path)).entries
    add_cell(run, **wanted, seed=7)
    assert reproduce(layouts.layout("wifs2019", 2, "mnist"), shelf(tmp_path)).entries == 1


def test_bim_is_the_papers_attack_too_and_pgd_comes_first(tmp_path):
    run = make_run(tmp_path, "oon")
    wanted = {"tol": 1.0, "norm": "linf", "eps": 0.1, "gradient": "adjoint"}
    for attack, turned in (("bim", 7), ("pgd", 6)):
        add_cell(run, turned, **wanted, attack=attack)
        found = reproduce(layouts.layout("wifs2019", 2, "mnist"), shelf(tmp_path))
        assert entry(found.table, "linf", "0.1", "OON", tol="1e0").ours.count == turned


def test_res_stands_under_one_tolerance_and_needs_no_gradient(tmp_path):
    run = make_run(tmp_path, "res")
    add_cell(run, turned=16, solver=None, norm="linf", eps=0.1)
    found = reproduce(layouts.layout("wifs2019", 2, "mnist"), shelf(tmp_path))
    assert entry(found.table, "linf", "0.1", "RES", tol="1e-4").ours.count == 16
    assert entry(found.table, "linf", "0.1", "RES", tol="1e-3") is None


def test_table_1_counts_parameters_and_errors(tmp_path):
    run = make_run(tmp_path, "oon")
    add_cell(run, wrong=1, tol=1e-4)
    layout = layouts.layout("wifs2019", 1, "mnist")
    found = reproduce(layout, shelf(tmp_path), {"oon": 76_810})
    assert found.table.headers[:3] == ["model", "parameters, M", "τ = 1e-4"]
    assert found.table.rows[2][:2] == ["OON", "0.08 [0.08]"] and found.table.rows[0][1] == "– [0.60]"
    assert str(found.table.rows[2][2]) == "2.0 (0.4–10.5) [0.5]"


def test_missing_entries_come_with_commands(tmp_path):
    run = make_run(tmp_path, "oon")
    found = reproduce(layouts.layout("wifs2019", 2, "mnist"), shelf(tmp_path))
    assert len(found.missing) == 66 and not found.entries
    (one,) = [
        one.commands
        for one in found.missing
        if (one.measurement.model.name, one.measurement.eps, one.measurement.tol, one.measurement.norm)
        == ("oon", 0.3, 1e-3, "linf")
    ]
    assert one == [
        f"bin/evaluate --run={run.path} --attack=pgd --tol=1e-3 --norm=linf --eps=0.3 --steps=10 "
        "--step_size=0.05 --gradient=adjoint --num_examples=50"
    ]
    lines = all_commands(shelf(tmp_path), found.missing)
    assert [line.split()[0] for line in lines] == ["bin/train", "bin/evaluate"] * 2 + ["bin/evaluate"]
    assert "--flagfile=configs/wifs2019/mnist_res.cfg" in lines[0]
    assert "--norm=l2rms,linf --eps=0.05,0.1,0.3" in lines[-1] and "--tol=1e-4,1e-3,0.01,0.1,1" in lines[-1]


def test_a_stopped_training_is_gone_on_with(tmp_path):
    model = layouts.wifs_model("oon", "mnist")
    (wanted, *_) = [one for one in layouts.layout("wifs2019", 1, "mnist").measurements if one.model == model]
    path = tmp_path / "wifs2019-mnist_oon"
    run = Run.create(path, {"model": {"name": "oon"}, "dataset": {"name": "mnist"}})
    where = Shelf(tmp_path, "mnist", IMAGES, "adjoint", "data")
    assert where.commands([wanted])[0] == f"bin/train --run_dir={path} --resume --data_dir=data"
    run.model_path.write_bytes(b"of something else")
    assert "--resume" not in Shelf(tmp_path, "cifar10", IMAGES, "adjoint").commands([wanted])[0]


def test_recipes_are_found_from_any_folder(tmp_path, monkeypatch, request):
    recipe = "wifs2019/mnist_oon"
    inside = request.config.rootpath / "configs" / f"{recipe}.cfg"
    monkeypatch.chdir(request.config.rootpath)
    assert str(layouts.flag_file(recipe)) == f"configs/{recipe}.cfg"
    monkeypatch.chdir(tmp_path)
    assert layouts.flag_file(recipe) == inside
    # Installed: no checkout around the package.
    monkeypatch.setattr(layouts, "__file__", str(tmp_path / "lib" / "tfode_adv" / "papers" / "layouts.py"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    installed = tmp_path / "environment" / "share" / "tfode_adv" / "configs" / f"{recipe}.cfg"
    installed.parent.mkdir(parents=True)
    installed.write_text("--model=oon")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert layouts.flag_file(recipe) == installed


def test_commands_quote_what_a_shell_would_read(tmp_path):
    root = tmp_path / "my runs; rm -rf x"
    root.mkdir()
    make_run(root, "oon")
    found = reproduce(layouts.layout("wifs2019", 1, "mnist"), shelf(root))
    for line in all_commands(shelf(root), found.missing):
        assert [part for part in shlex.split(line) if str(root) in part]


def test_trades_models_are_told_apart(tmp_path):
    cifar = {"dataset": "cifar10", "filters": 32}
    one = make_run(tmp_path, "resnet10", **cifar, loss="trades", inverse_lambda=1.0)
    six = make_run(tmp_path, "resnet10", **cifar, loss="trades", inverse_lambda=6.0)
    make_run(tmp_path, "resnet10", **cifar)
    where = shelf(tmp_path, "cifar10", "backprop")
    models = {one.model for one in layouts.layout("msml2022", 1, "cifar10").measurements}
    found = {model.recipe: run.path for model in models if (run := where.run_of(model)) is not None}
    assert found == {
        "msml2022/resnet10_trades_1_32": one.path,
        "msml2022/resnet10_trades_6_32": six.path,
    }


def test_a_robust_training_is_not_the_papers(tmp_path):
    make_run(tmp_path, "oon", loss="trades")
    assert shelf(tmp_path).run_of(layouts.wifs_model("oon", "mnist")) is None
    plain = make_run(tmp_path, "oon", loss=None)
    assert shelf(tmp_path).run_of(layouts.wifs_model("oon", "mnist")).path == plain.path


def test_commands_name_the_papers_solver_where_the_run_has_another(tmp_path):
    runs = [make_run(tmp_path, "oon", solver="bosh3"), make_run(tmp_path, "mix", solver="dopri5")]
    found = reproduce(layouts.layout("wifs2019", 2, "mnist"), shelf(tmp_path))
    lines = [line.split() for line in all_commands(shelf(tmp_path), found.missing)]
    named = ["--solver=dopri5" in line for run in runs for line in lines if f"--run={run.path}" in line]
    assert named == [True, False]


def test_a_converted_checkpoint_is_recognised(tmp_path):
    config = {"flags": {"model": "sonet", "from": "sonet.pt"}, "dataset": {"name": "cifar10"}}
    run = Run.create(tmp_path / "sonet", {**config, "model": {"name": "sonet", "kwargs": {"filters": 32}}})
    run.model_path.write_bytes(b"weights")
    where = shelf(tmp_path, "cifar10", "backprop")
    assert where.run_of(layouts._msml_model("sonet", 32)).path == run.path
    assert where.run_of(layouts._msml_model("sonet", 64)) is None


def test_the_papers_own_width_comes_before_a_newer_run(tmp_path):
    right = make_run(tmp_path, "oon")
    make_run(tmp_path, "oon", filters=8)
    assert shelf(tmp_path).run_of(layouts.wifs_model("oon", "mnist")).path == right.path


def test_a_narrower_model_is_taken_with_a_note(tmp_path):
    make_run(tmp_path, "mix", filters=8)
    found = reproduce(layouts.layout("wifs2019", 1, "mnist"), shelf(tmp_path))
    assert any("8 filters instead of 64" in note for note in found.notes)
    assert any(note.startswith("RES: no run folder") for note in found.notes)


def test_a_run_that_went_on_has_the_epochs_it_was_trained_for(tmp_path):
    run = make_run(tmp_path, "mix")
    found = reproduce(layouts.layout("wifs2019", 1, "mnist"), shelf(tmp_path))
    assert any("3 epochs" in note for note in found.notes)
    (run.path / "metrics.csv").write_text("epoch,loss\n" + "".join(f"{epoch},1.0\n" for epoch in (1, 2, 3, 4)))
    found = reproduce(layouts.layout("wifs2019", 1, "mnist"), shelf(tmp_path))
    assert any("4 epochs" in note for note in found.notes)


def test_damaged_and_unfinished_runs_are_passed_over(tmp_path):
    run = make_run(tmp_path, "oon")
    run.model_path.unlink()
    other = make_run(tmp_path, "oon")
    (other.path / "config.json").write_text("{")
    assert shelf(tmp_path).run_of(layouts.wifs_model("oon", "mnist")) is None


def test_every_recipe_has_its_flag_file(request):
    tables = [layouts.layout("wifs2019", 1, "mnist"), layouts.layout("wifs2019", 1, "cifar10")]
    tables.append(layouts.layout("msml2022", 1, "cifar10"))
    for model in {one.model for table in tables for one in table.measurements}:
        text = (request.config.rootpath / "configs" / f"{model.recipe}.cfg").read_text()
        assert f"--model={model.name}\n" in text
        assert all(f"--{name}={value}\n" in text for name, value in model.flags)
