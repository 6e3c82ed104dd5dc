"""Records that are not what they say: what was changed, copied in or lost is named and left out, never counted."""

import dataclasses
import json
import resource
import shutil

import pytest

from tests.evaluation.making import CONFIGURATION, make_record
from tfode_adv import files
from tfode_adv.errors import RunError
from tfode_adv.evaluation import results
from tfode_adv.evaluation.records import Cell, Record
from tfode_adv.run_folder import Run


@pytest.fixture
def run(tmp_path):
    """A finished run with two configurations of five images each, the first three of them turned."""
    run = Run.create(tmp_path / "oon", {"model": {"name": "oon", "kwargs": {}}, "dataset": {"name": "mnist_5k"}})
    run.model_path.write_bytes(b"weights")
    for eps in (0.1, 0.3):
        cell_of(run, eps).append(make_record(index, success=index < 3) for index in range(5))
    return run


def cell_of(run, eps):
    return Cell.of(run.path, dataclasses.replace(CONFIGURATION, model=files.sha256(run.model_path), eps=eps))


def records_file(cell):
    (path,) = cell.folder.glob("records-*.jsonl")
    return path


def edit(old, new):
    def change(cell, other):
        path = records_file(cell)
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return change


def copy_in(cell, other):
    shutil.copy(records_file(other), cell.folder / "records-copied-0001.jsonl")


def another_eps(cell, other):
    path = cell.folder / "cell.json"
    path.write_text(path.read_text().replace('"eps": 0.1', '"eps": 0.01'))


def another_eps_and_folder(cell, other):
    another_eps(cell, other)
    values = json.loads((cell.folder / "cell.json").read_text())["configuration"]
    cell.folder.rename(cell.folder.with_name(dataclasses.replace(cell.configuration, eps=values["eps"]).digest))


def two_records(cell, other):
    Cell(cell.folder, cell.configuration).append([make_record(4, success=True)])


def without_seals(cell, other):
    path = records_file(cell)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in one.items() if k != "seal"}) + "\n" for one in lines))


DAMAGES = {
    "success": edit('"success":true', '"success":false'),
    "adversarial": edit('"adversarial":5', '"adversarial":3'),
    "index": edit('"index":4', '"index":7'),
    "another cell's": copy_in,
    "eps": another_eps,
    "eps and folder": another_eps_and_folder,
    "no cell.json": lambda cell, other: (cell.folder / "cell.json").unlink(),
    "two records": two_records,
    "no seals": without_seals,
    "nested": lambda cell, other: (cell.folder / "cell.json").write_text("[" * 100_000),
    "wrong types": lambda cell, other: (cell.folder / "cell.json").write_text(
        '{"format": 2, "configuration": {"model": "abc", "dataset": "mnist_5k", "eps": "large", "random_tol": 3}}'
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cell_is_named_and_left_out_and_the_others_are_read(run, damage):
    damage(cell_of(run, 0.1), cell_of(run, 0.3))
    found = results.collect([run.path])
    (left,) = found.results
    assert left.configuration.eps == 0.3 and left.summary.success.count == 3
    (note,) = found.left_out
    assert note.startswith("oon: a configuration was left out") and str(run.path / "evaluations") in note


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_computed_anew_replaces_a_damaged_cell(run, damage):
    cell = cell_of(run, 0.1)
    damage(cell, cell_of(run, 0.3))
    cell.discard(range(10))
    assert cell.records() == {}
    cell.append([make_record(index) for index in range(5)])
    found = results.collect([run.path])
    assert [result.summary.success.count for result in found.results if result.configuration.eps == 0.1] == [0]


@pytest.mark.parametrize(
    "name, value",
    [
        ("index", -5),
        ("index", 0.5),
        ("index", True),
        ("label", "3"),
        ("adversarial", -2),
        ("success", 1),
        ("success", True),
        ("queries", -1),
        ("distance", float("nan")),
        ("margin_clean", [1.5]),
        ("checksum", 0.5),
    ],
)
def test_a_line_that_is_no_record_is_refused(name, value):
    values = json.loads(make_record(3).to_line()) | {name: value}
    with pytest.raises((ValueError, TypeError)):
        Record.from_line(json.dumps(values))


def test_records_of_before_there_were_seals_are_read(run):
    cell = cell_of(run, 0.1)
    without_seals(cell, None)
    path = cell.folder / "cell.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    assert len(cell.records()) == 5
    # What is written beside them now has a seal, which is looked at.
    cell_of(run, 0.1).append([make_record(5), make_record(6)])
    assert len(cell.records()) == 7
    (sealed,) = (path for path in cell.folder.glob("records-*.jsonl") if "seal" in path.read_text())
    sealed.write_text(sealed.read_text().replace('"index":5', '"index":8'))
    with pytest.raises(RunError, match="its seal is broken"):
        cell.records()


def test_two_folders_that_say_two_things_of_one_image_are_told_apart(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "other")
    for folder, success in ((run.path, False), (tmp_path / "other", True)):
        Cell.of(folder, cell_of(run, 0.1).configuration).append([make_record(9, success=success)])
    found = results.collect([run.path, tmp_path / "other"])
    assert [len(result.records) for result in found.results] == [6, 5]
    assert len(found.left_out) == 1 and "of 1 images, the first 9" in found.left_out[0]


def test_another_run_s_model_is_told_of_and_the_records_of_one_s_own_are_shown(run):
    run.bind(files.sha256(run.model_path))
    run.model_path.write_bytes(b"another run's")
    found = results.collect([run.path])
    assert len(found.results) == 2 and "not the one that this run made" in found.left_out[0]


@pytest.fixture
def full_disk():
    """Lets no file of this process grow beyond so many bytes: the write that comes there is short, the next fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_does_not_fit_leaves_nothing_and_says_so(run, full_disk):
    cell = cell_of(run, 0.1)
    cell.append([make_record(5)])
    (path,) = cell.folder.glob("records-1of1-0002.jsonl")
    before = path.read_bytes()
    full_disk(len(before) + 100)
    with pytest.raises(RunError, match="cannot write"):
        cell.append([make_record(6), make_record(7)])
    full_disk(resource.RLIM_INFINITY)
    assert path.read_bytes() == before
    cell.append([make_record(8)])
    assert list(cell.records()) == [0, 1, 2, 3, 4, 5, 8]
