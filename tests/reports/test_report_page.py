"""Reports from made-up run folders: what they hold, no network needed, names that cannot break out."""

import csv
import dataclasses
import html.parser
import json
import re
import shutil

import numpy as np
import pytest

from tests.evaluation.making import CONFIGURATION, make_record
from tfode_adv import files
from tfode_adv.errors import RunError
from tfode_adv.evaluation import results
from tfode_adv.evaluation.records import Cell, cells
from tfode_adv.rendering import folder as rendering
from tfode_adv.rendering.rates import Rate
from tfode_adv.reports import figures, gallery, overview, report
from tfode_adv.run_folder import Run

SCRIPT = "<script>alert(1)</script>"
SOURCES = ("backprop", "adjoint")


class Page(html.parser.HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)


def make_run(folder, *, eps=(0.1, 0.3), tols=(1e-3, 1.0), indices=range(20), model=b"weights", flags=()):
    run = Run.create(
        folder,
        {
            "model": {"name": "oon", "kwargs": {"filters": 8}},
            "dataset": {"name": "mnist_5k"},
            "flags": {"epochs": 2, **dict(flags)},
            "seed": 0,
        },
    )
    run.model_path.write_bytes(model)
    base = dataclasses.replace(CONFIGURATION, model=files.sha256(run.model_path), hyperparameters={"steps": 10})
    picture = np.linspace(0, 1, 36, dtype=np.float32).reshape(6, 6, 1)
    for tol in tols:
        clean = dataclasses.replace(base, tol=tol).clean
        Cell.of(folder, clean).append([make_record(i, nfe_clean=round(14 - np.log10(tol))) for i in indices])
        for gradient in SOURCES:
            for radius in eps:
                cell = Cell.of(folder, dataclasses.replace(base, tol=tol, eps=radius, gradient=gradient))
                turned = 40 * radius if gradient == "backprop" else 20 * radius
                cell.append([make_record(i, success=i < turned) for i in indices])
                cell.save_image(0, picture, np.clip(picture + radius, 0, 1))
    return run


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("written")
    make_run(tmp_path / "oon")
    path = rendering.write(report.of_runs([tmp_path / "oon"]), tmp_path / "out")
    return path.parent, Page(path.read_text())


def test_all_files_are_written(written):
    folder, _ = written
    assert {"index.html", "report.md", "tables.tex", "results.json", "table-1.csv", "table-4.csv"} <= {
        path.name for path in folder.iterdir()
    }
    linked = re.findall(r"\]\((figures/[^)]+)\)", (folder / "report.md").read_text())
    assert linked and all((folder / name).is_file() for name in linked)


def test_markdown_shows_the_galleries(written):
    folder, _ = written
    text = (folder / "report.md").read_text()
    section = text.partition("## Images")[2].partition("\n## ")[0]
    shown = re.findall(r"!\[(.+?)\]\((figures/\S+\.png)\)", section)
    assert len(shown) >= 3 and shown[0][0] == "clean image 0"
    assert "label 3, predicted 3 → 5" in section and "change ×" in section
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for _, name in shown)


def test_the_page_is_self_contained(written):
    _, page = written
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed")
        for name in ("src", "href", "srcset", "poster", "action"):
            assert re.match(r"data:|#", attributes.get(name, "#")), (tag, attributes)
    style = "".join(page.words)
    assert "@import" not in style and "url(" not in style
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [a for _, a in page.tags]


def test_a_table_wider_than_the_screen_moves_in_a_frame_that_shows_there_is_more(written):
    _, page = written
    tags = [(tag, attributes.get("class", "")) for tag, attributes in page.tags]
    before = [tags[place - 1] for place, (tag, _) in enumerate(tags) if tag == "table"]
    assert before and set(before) == {("div", "scroll")}
    (frame,) = re.findall(r"\.scroll \{ (overflow-x: auto[^}]*)\}", "".join(page.words))
    # Shadows at both edges that stay, under covers that move with the table.
    assert frame.count("no-repeat scroll") == frame.count("no-repeat local") == 2


def test_every_picture_has_words(written):
    _, page = written
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) >= 5 and all(attributes["alt"] for attributes in pictures)


def test_tables_hold_the_numbers(written):
    folder, page = written
    rows = list(csv.DictReader((folder / "table-4.csv").open()))
    assert len(rows) == 8
    (row,) = [r for r in rows if (r["τ"], r["gradient"], r["ε"]) == ("1", "adjoint", "0.3")]
    assert float(row["attack success"]) == 0.3 and float(row["robust accuracy"]) == 0.7
    assert "60.0 % " in page.words and "(38.7–78.1)" in page.words
    data = json.loads((folder / "results.json").read_text())
    assert len(data["results"]) == 10 and data["runs"]["oon"]["config"]["flags"] == {"epochs": 2}


def test_the_worst_case_is_taken_image_by_image(tmp_path):
    run = make_run(tmp_path / "oon", eps=(), tols=(1.0,))
    base = dataclasses.replace(CONFIGURATION, model=files.sha256(run.model_path), tol=1.0)
    turned = {"pgd": {0, 1, 2}, "spsa": {2, 3}}
    for attack, images in turned.items():
        cell = Cell.of(run.path, dataclasses.replace(base, attack=attack))
        # A costly attack may be run on fewer images; the others did not withstand what they never met.
        count = 10 if attack == "pgd" else 6
        cell.append([make_record(i, i in images, **({} if i < 9 else {"clean": 4})) for i in range(count)])
    _, success, robust, _ = overview.tables(results.collect([run.path]).results)
    rows = {row[0]: row[-1] for row in success.rows}
    assert rows == {"pgd": Rate(3, 9), "spsa": Rate(2, 6), "worst of these": Rate(4, 6)}
    assert {row[0]: row[-1] for row in robust.rows}["worst of these"] == Rate(2, 6)
    (headline,) = overview.headlines(results.collect([run.path]).results)
    assert headline == ("oon, linf, ε = 0.3: the worst of 2 attacks leaves 33.3 % (9.7–70.0) at τ = 1 correct.")


def add_cell(run, turned=0, **settings):
    """Ten images, the first `turned` of them turned."""
    base = dataclasses.replace(CONFIGURATION, model=files.sha256(run.model_path), gradient="backprop")
    cell = Cell.of(run.path, dataclasses.replace(base, **settings))
    cell.append([make_record(i, i < turned, nfe_clean=len(str(settings))) for i in range(10)])
    cell.save_image(0, np.zeros((4, 4, 1)), np.ones((4, 4, 1)))


def test_splits_and_data_sets_are_never_joined(tmp_path):
    run = make_run(tmp_path / "oon", tols=())
    kinds = {
        "mnist_5k (test)": {},
        "mnist_5k (validation)": {"split": "validation"},
        "mnist (test)": {"dataset": "mnist"},
    }
    for number, settings in enumerate(kinds.values(), start=1):
        for tol in (1e-3, 1.0):
            add_cell(run, number, tol=tol, **settings)
            add_cell(run, tol=tol, attack="none", norm=None, eps=None, gradient=None, **settings)
    found = results.collect([run.path]).results
    lines = overview.headlines(found)
    assert sorted(line.partition(", linf")[0] for line in lines) == sorted(f"oon, {kind}" for kind in kinds)
    assert all("the attack tried leaves" in line for line in lines)
    clean, *_, every = overview.tables(found)
    assert {row[0] for row in clean.rows} == {row[0] for row in every.rows} == {f"oon, {kind}" for kind in kinds}
    for kind in kinds:
        assert any(
            picture.title.startswith(f"oon, {kind}, pgd") for picture in figures.success_against_tolerance(found)
        )
        assert any(one.title.startswith(f"oon, {kind}, pgd") for one in gallery.galleries(found))
        (cost,) = figures.accuracy_against_cost(found)
        assert f"oon, {kind}" in cost.text


def test_solvers_are_different_models(tmp_path):
    run = make_run(tmp_path / "oon", tols=())
    for eps in (0.1, 0.3):
        add_cell(run, 2, eps=eps, solver="dopri5")
        add_cell(run, 5, eps=eps, solver="bosh3")
        add_cell(run, 7, eps=eps, solver="rk4", num_steps=8, tol=None)
    found = results.collect([run.path]).results
    subjects = ["oon, bosh3", "oon, dopri5", "oon, rk4 (8 steps)"]
    titles = [table.title for table in overview.tables(found)]
    assert (
        titles
        == [f"{s}: {what}" for s in subjects for what in ("attack success rate", "robust accuracy")] + titles[-1:]
    )
    assert not any("worst" in str(row[0]) for table in overview.tables(found) for row in table.rows)
    assert {row[0] for row in overview.attack_table(found).rows} == set(subjects)
    assert [picture.title for picture in figures.security_curves(found)] == [
        f"{s}, pgd, linf, backprop" for s in subjects
    ]


def test_solvers_stand_side_by_side_the_adaptive_ones_first(tmp_path):
    run = make_run(tmp_path / "oon", tols=())
    for attack in ({"attack": "pgd"}, {"attack": "square", "gradient": None}):
        add_cell(run, 7, solver="rk4", num_steps=8, tol=None, **attack)
        add_cell(run, 2, solver="dopri5", tol=0.1, **attack)
    add_cell(run, 2, solver="dopri5", tol=0.1, attack="spsa", gradient=None)
    found = results.collect([run.path]).results
    (one,) = figures.robustness_by_solver(found)
    assert one.title == "oon, linf, ε = 0.3" and one.data.startswith(b"<?xml")
    assert one.text.endswith("against solver (dopri5, τ = 0.1, rk4 (8 steps)); lines: pgd, backprop, square")
    assert figures.robustness_by_solver([each for each in found if each.configuration.tol]) == []


def test_variants_of_an_attack_are_told_apart(tmp_path):
    run = make_run(tmp_path / "oon", tols=())
    plain = {"steps": 10, "step_size": 0.05, "random_start": False, "restarts": 1, "early_stop": True}
    random = {**plain, "random_start": True, "restarts": 5}
    for eps in (0.1, 0.3):
        add_cell(run, 2, eps=eps, hyperparameters={**plain, "step_size": eps / 4})
        add_cell(run, 5, eps=eps, hyperparameters={**random, "step_size": eps / 4})
    # Of a release that knew no such hyperparameter.
    add_cell(run, 1, attack="mim", hyperparameters={"steps": 10})
    add_cell(run, 1, attack="mim", hyperparameters={"steps": 10, "decay": 1.0})
    found = results.collect([run.path]).results
    assert {row[2] for row in overview.attack_table(found).rows} >= {"mim-10", "mim-10 (decay 1)"}
    found = [one for one in found if one.configuration.attack == "pgd"]
    names = {"pgd-10 (no random start, restarts 1)", "pgd-10 (random start, restarts 5)"}
    assert {row[2] for row in overview.attack_table(found).rows} == names
    assert {row[0] for row in overview.tables(found)[0].rows} == names | {"worst of these"}
    assert {picture.title for picture in figures.security_curves(found)} == {
        f"oon, {name}, linf, backprop" for name in names
    }


def test_a_headline_counts_the_attacks_run_at_each_tolerance(tmp_path):
    run = make_run(tmp_path / "oon", tols=())
    for attack, tol in (("pgd", 1e-3), ("apgd", 1e-3), ("pgd", 1.0)):
        add_cell(run, 5, attack=attack, tol=tol)
    (line,) = overview.headlines(results.collect([run.path]).results)
    assert "the worst of 2 attacks leaves 50.0 % (23.7–76.3) at τ = 1e-3, the attack tried leaves 50.0 %" in line
    assert line.endswith("correct (not the same attacks).")


def test_charts_cover_eps_tolerance_and_cost(written):
    _, page = written
    captions = "".join(page.words)
    for title in (
        "oon, pgd-10, linf, adjoint",
        "oon, pgd-10, linf, ε = 0.3",
        "Clean accuracy against NFE",
    ):
        assert title in captions


@pytest.mark.parametrize("name", [SCRIPT, "<script>alert(1)<", "a&b|$x$_\\"])
def test_names_from_users_are_escaped(tmp_path, name):
    folder = tmp_path / name  # the slash makes two folders of the first name; the page shows the path as well
    make_run(folder, flags={"<b>": '"><img src=x onerror=alert(1)>'}.items())
    path = rendering.write(report.of_runs([folder]), tmp_path / "out")
    page = Page(path.read_text())
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert name in "".join(page.words)
    text = (path.parent / "report.md").read_text()
    assert "<script" not in text and "<img" not in text


def test_shards_in_separate_folders_merge(tmp_path):
    make_run(tmp_path / "a", indices=range(0, 20, 2))
    make_run(tmp_path / "b", indices=range(1, 20, 2))
    make_run(tmp_path / "whole")
    merged = results.collect([tmp_path / "a", tmp_path / "b"]).results
    whole = results.collect([tmp_path / "whole"]).results
    assert [dict(result.records) for result in merged] == [dict(result.records) for result in whole]
    assert [result.summary for result in merged] == [result.summary for result in whole]


def test_folders_whose_records_are_of_different_images_are_not_merged(tmp_path):
    for name, sums in (("a", {0: 1, 1: 2}), ("b", {1: 2, 2: 3}), ("c", {1: None}), ("d", {2: 4})):
        run = make_run(tmp_path / name, tols=())
        cell = Cell.of(run.path, dataclasses.replace(CONFIGURATION, model=files.sha256(run.model_path)))
        cell.append([make_record(index, checksum=one) for index, one in sums.items()])
    (merged,) = results.collect([tmp_path / name for name in "abc"]).results
    assert list(merged.records) == [0, 1, 2]
    with pytest.raises(RunError, match=r"different images under one place, 2, of mnist_5k: .*--overwrite"):
        results.collect([tmp_path / name for name in "abd"])


def test_a_gallery_shows_the_first_of_many_images_and_reads_no_others(tmp_path):
    run = make_run(tmp_path / "oon", tols=())
    add_cell(run)
    (cell,) = [cell for cell in cells(run.path) if cell.configuration.attack != "none"]
    (one,) = gallery.galleries(results.collect([run.path]).results)
    assert len(one.cards) == 1 and one.title.endswith("τ = 0.1")
    for index in range(gallery.KEEP_IMAGES + 1):
        cell.save_image(index, np.zeros((4, 4, 1)), np.ones((4, 4, 1)))
    next(cell.folder.glob("image-000008.npz")).write_bytes(b"never read")
    (one,) = gallery.galleries(results.collect([run.path]).results)
    assert [card.index for card in one.cards] == list(range(8))
    assert one.title.endswith("τ = 0.1 (the first 8 of 9 images kept)")


def test_an_image_that_is_damaged_is_left_out_and_named(tmp_path):
    run = make_run(tmp_path / "oon", tols=())
    add_cell(run)
    (cell,) = [cell for cell in cells(run.path) if cell.configuration.attack != "none"]
    for index in range(2):
        cell.save_image(index, np.zeros((4, 4, 1)), np.ones((4, 4, 1)))
    (cell.folder / "image-000001.npz").write_bytes(b"damaged")
    (one,) = gallery.galleries(results.collect([run.path]).results)
    assert [card.index for card in one.cards] == [0] and "1 left out" in one.title and "image-000001" in one.title


def test_fewer_images_can_be_asked_for(tmp_path):
    make_run(tmp_path / "oon")
    assert all(len(result.records) == 5 for result in results.collect([tmp_path / "oon"], 5).results)


def test_records_of_a_replaced_model_are_left_out(tmp_path):
    run = make_run(tmp_path / "oon")
    run.model_path.write_bytes(b"other weights")
    found = results.collect([run.path])
    assert not found.results and "10 configurations of a model since replaced" in found.notes[0]


def test_folders_of_one_name_are_told_apart(tmp_path):
    make_run(tmp_path / "a" / "oon", model=b"1")
    make_run(tmp_path / "b" / "oon", model=b"2")
    found = results.collect([tmp_path / "a" / "oon", tmp_path / "b" / "oon"])
    assert set(found.runs) == {str(tmp_path / "a" / "oon"), str(tmp_path / "b" / "oon")}
    assert len(found.results) == 20


def write_diagnosis(run, part, **values):
    files.write_json(run.path / "diagnosis" / "diagnosis.json", {"report": [part], **values})


def test_a_diagnosis_of_other_weights_is_left_out_with_a_note(tmp_path):
    run = make_run(tmp_path / "oon")
    part = {"title": "Is it real?", "verdicts": ["It is credible."]}
    for digest, words in (("0" * 64, "since replaced"), (None, "unknown")):
        write_diagnosis(run, part, model=digest)
        page = Page(rendering.write(report.of_runs([run.path]), tmp_path / "out").read_text())
        assert "It is credible." not in page.words
        assert any(f"of a model {words}" in text or f"of an {words} model" in text for text in page.words)
        assert any("bin/diagnose tells" in text for text in page.words)


def test_a_diagnosis_is_shown(tmp_path):
    run = make_run(tmp_path / "oon")
    (run.path / "diagnosis").mkdir()
    (run.path / "diagnosis" / "surface.png").write_bytes(b"\x89PNG")
    table = {"title": "Indicators", "headers": ["name", "result", "share"]}
    table["rows"] = [["black box wins", "fail", {"count": 1, "total": 4}]]
    part = {"title": "Is it real?", "verdicts": ["It is <masked>."], "tables": [table]}
    part["figures"] = [{"file": "surface.png", "title": "Loss surface"}]
    write_diagnosis(run, part, model=files.sha256(run.model_path))
    page = Page(rendering.write(report.of_runs([run.path]), tmp_path / "out").read_text())
    kept = json.loads((tmp_path / "out" / "results.json").read_text())["diagnoses"]
    assert kept == {"oon": json.loads((run.path / "diagnosis" / "diagnosis.json").read_text())}
    assert (
        page.words.count("It is <masked>.") == 1 and "Loss surface" in page.words and "Is it real?: oon" in page.words
    )
    assert any("fail" in attributes.get("class", "") for tag, attributes in page.tags if tag == "td")


@pytest.mark.parametrize(
    "values", [[], {"report": None}, {"report": [{}]}, {"report": [{"title": "t", "tables": [{}]}]}]
)
def test_a_corrupt_diagnosis_is_named(tmp_path, values):
    run = make_run(tmp_path / "oon", eps=())
    if values:
        values = {**values, "model": files.sha256(run.model_path)}
    files.write_json(run.path / "diagnosis" / "diagnosis.json", values)
    with pytest.raises(RunError, match="diagnosis.json"):
        report.of_runs([run.path])


def test_a_missing_figure_is_named(tmp_path):
    run = make_run(tmp_path / "oon", eps=())
    part = {"title": "t", "figures": [{"file": "gone.png"}]}
    write_diagnosis(run, part, model=files.sha256(run.model_path))
    with pytest.raises(RunError, match="gone.png"):
        report.of_runs([run.path])


def test_a_report_is_replaced_but_nothing_else_is(tmp_path):
    make_run(tmp_path / "oon")
    rendering.write(report.of_runs([tmp_path / "oon"]), tmp_path / "out")
    mine = [tmp_path / "out" / "table-99.csv", tmp_path / "out" / "figures" / "my-1.svg"]
    for path in mine:
        path.write_text("drawn by hand")
    shutil.rmtree(tmp_path / "oon")
    make_run(tmp_path / "oon", eps=())
    made = report.of_runs([tmp_path / "oon"])
    rendering.write(made, tmp_path / "out")
    assert not (tmp_path / "out" / "table-2.csv").exists()
    left = {*tmp_path.glob("out/table-*.csv"), *tmp_path.glob("out/figures/*")}
    assert {path.name for path in left} == {"table-1.csv", "cost-1.svg", "table-99.csv", "my-1.svg"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="other"):
        rendering.write(made, tmp_path / "other")
    rendering.write(made, tmp_path / "other", overwrite=True)
    assert (tmp_path / "other" / "thesis.tex").read_text() == "years of work"


def test_nothing_evaluated_says_so(tmp_path):
    make_run(tmp_path / "oon", tols=())
    page = Page(rendering.write(report.of_runs([tmp_path / "oon"]), tmp_path / "out").read_text())
    assert "Nothing was evaluated yet." in page.words


def test_a_page_begins_with_the_gradients_side_by_side(tmp_path):
    run = make_run(tmp_path / "oon", tols=())
    for tol, turned in ((1e-3, 6), (1.0, 2)):
        add_cell(run, tol=tol, attack="none", norm=None, eps=None, gradient=None)
        add_cell(run, turned, tol=tol, gradient="adjoint")
        add_cell(run, 6, tol=tol)
    made = report.of_runs([run.path])
    first, *others = made.sections
    (picture,) = first.pictures
    assert "backprop" in picture.text and "adjoint" in picture.text
    # It is shown once.
    assert picture.title not in {one.title for section in others for one in section.pictures}
