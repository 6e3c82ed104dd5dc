import dataclasses
import json
import os
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.making import CONFIGURATION, make_record
from tfode_adv.errors import RunError
from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.evaluation.records import Cell, Record, cells, checksum_of


def test_a_record_of_before_there_were_checksums_is_read():
    line = make_record(3).to_line().replace(',"checksum":null', "")
    assert "checksum" not in line and Record.from_line(line) == make_record(3, checksum=None)


def test_checksums_tell_images_and_labels_apart():
    image = np.random.default_rng(0).random((4, 5, 1), np.float32)
    sums = {checksum_of(image, 3), checksum_of(image, 4), checksum_of(image[::-1], 3), checksum_of(image + 1e-7, 3)}
    assert len(sums) == 4 and all(0 <= one < 2**32 for one in sums)
    assert checksum_of(image, 3) == checksum_of(np.asfortranarray(image), np.int64(3))


@given(st.integers(0, 10**6), st.booleans(), st.floats(), st.floats(allow_nan=False, allow_infinity=False))
def test_a_record_survives_its_line(index, success, distance, margin):
    record = make_record(index, success, distance=distance, margin_clean=margin)
    line = record.to_line()
    assert line.count("\n") == 1 and line.endswith("\n")
    back = Record.from_line(line)
    expected = distance if np.isfinite(distance) else None
    assert back == dataclasses.replace(record, distance=expected)


@pytest.mark.parametrize(
    ("digest", "given"),
    [
        ("7b9ec8c70525a830", {"tol": 1e-3, "solver": "dopri5"}),
        ("065355139c9c12e6", {"solver": "dopri5", "random_tol": (1e-3, 1)}),
        (
            "a582ca03c7fbbdca",
            {
                "solver": "rk4",
                "num_steps": 4,
                "attack": "spsa",
                "norm": "linf",
                "eps": 0.3,
                "seed": 1,
                "hyperparameters": {"steps": 25},
            },
        ),
        (
            "41ca9c880fac39d6",
            {
                "dataset": "cifar10",
                "split": "validation",
                "tol": 0.1,
                "solver": "bosh3",
                "attack": "pgd",
                "norm": "l2rms",
                "eps": 0.05,
                "gradient": "adjoint",
                "gradient_tol": 1e-5,
                "gradient_solver": "rk4",
                "gradient_num_steps": 8,
                "eot": 3,
                "seed": 0,
                "hyperparameters": {"steps": 10, "step_size": 0.01},
            },
        ),
    ],
)
def test_records_of_before_are_found_again(digest, given):
    assert Configuration(**{"model": "abc", "dataset": "mnist", **given}).digest == digest


def test_digest_is_stable_and_tells_configurations_apart():
    assert CONFIGURATION.digest == "fb099aa8ba4854dd"
    assert dataclasses.replace(CONFIGURATION, hyperparameters={"a": 1, "b": 2}).digest == (
        dataclasses.replace(CONFIGURATION, hyperparameters={"b": 2, "a": 1}).digest
    )
    assert dataclasses.replace(CONFIGURATION, eps=1).digest == dataclasses.replace(CONFIGURATION, eps=1.0).digest
    changed = [
        {"model": "abd"},
        {"dataset": "mnist"},
        {"split": "train"},
        {"tol": 1.0},
        {"solver": "bosh3"},
        {"num_steps": 4},
        {"attack": "bim"},
        {"norm": "l2"},
        {"eps": 0.1},
        {"gradient": "adjoint"},
        {"gradient_tol": 1e-5},
        {"gradient_solver": "rk4"},
        {"gradient_num_steps": 8},
        {"eot": 4},
        {"seed": 1},
        {"hyperparameters": {"steps": 20}},
    ]
    digests = {dataclasses.replace(CONFIGURATION, **change).digest for change in changed}
    assert len(digests | {CONFIGURATION.digest}) == len(changed) + 1


def test_a_configuration_survives_json(tmp_path):
    configuration = dataclasses.replace(CONFIGURATION, hyperparameters={"steps": 10, "step_size": 0.05})
    Cell.of(tmp_path, configuration).append([make_record(0)])
    assert [cell.configuration for cell in cells(tmp_path)] == [configuration]


def test_a_file_cut_at_any_byte_keeps_every_whole_line(tmp_path):
    cell = Cell.of(tmp_path, CONFIGURATION)
    cell.append([make_record(index, success=index % 2 == 0) for index in range(3)])
    (path,) = cell.folder.glob("records-*.jsonl")
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        assert list(cell.records()) == list(range(whole[:size].count(b"\n")))


def test_appending_after_a_torn_line_loses_nothing(tmp_path):
    first = Cell.of(tmp_path, CONFIGURATION)
    first.append([make_record(0), make_record(1)])
    (path,) = first.folder.glob("records-*.jsonl")
    path.write_bytes(path.read_bytes()[:-5])
    second = Cell.of(tmp_path, CONFIGURATION)
    second.append([make_record(1), make_record(2)])
    assert list(Cell.of(tmp_path, CONFIGURATION).records()) == [0, 1, 2]


def test_a_killed_process_leaves_only_whole_records(tmp_path):
    child = os.fork()
    if not child:
        cell = Cell.of(tmp_path, CONFIGURATION)
        cell.append([make_record(0), make_record(1)])
        cell.append([make_record(2)])
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert list(Cell.of(tmp_path, CONFIGURATION).records()) == [0, 1, 2]


def test_a_corrupt_line_in_the_middle_is_an_error_that_names_file_and_line(tmp_path):
    cell = Cell.of(tmp_path, CONFIGURATION)
    cell.append([make_record(0), make_record(1)])
    (path,) = cell.folder.glob("records-*.jsonl")
    path.write_bytes(b'{"index": 4}\n' + path.read_bytes())
    with pytest.raises(RunError, match=rf"{path.name}.*line 1"):
        cell.records()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 99, "configuration": {}}'])
def test_a_corrupt_cell_is_an_error_that_names_the_file(tmp_path, text):
    cell = Cell.of(tmp_path, CONFIGURATION)
    cell.append([make_record(0)])
    (cell.folder / "cell.json").write_text(text)
    with pytest.raises(RunError, match="cell.json"):
        cells(tmp_path)


def test_two_processes_never_write_the_same_file(tmp_path):
    for index in range(3):
        Cell.of(tmp_path, CONFIGURATION, "1of1").append([make_record(index)])
    cell = Cell.of(tmp_path, CONFIGURATION)
    assert len(list(cell.folder.glob("records-*.jsonl"))) == 3
    assert list(cell.records()) == [0, 1, 2]


def test_discard_removes_only_what_it_is_told(tmp_path):
    Cell.of(tmp_path, CONFIGURATION).append([make_record(0), make_record(1)])
    Cell.of(tmp_path, CONFIGURATION).append([make_record(2)])
    cell = Cell.of(tmp_path, CONFIGURATION)
    picture = np.zeros((2, 2, 1))
    for index in (0, 1, 5):
        cell.save_image(index, picture, picture)
    cell.discard([1, 2, 7])
    assert list(cell.records()) == [0]
    assert list(cell.images()) == [0, 5]


def test_images_come_back_and_a_corrupt_one_is_named(tmp_path):
    cell = Cell.of(tmp_path, CONFIGURATION)
    clean = np.random.default_rng(0).random((4, 5, 1), np.float32)
    cell.save_image(3, clean, clean / 2)
    ((index, (found, halved)),) = cell.images().items()
    assert index == 3
    np.testing.assert_array_equal(found, clean)
    np.testing.assert_array_equal(halved, clean / 2)
    (cell.folder / "image-000003.npz").write_bytes(b"PK garbage")
    kept = cell.images()
    assert list(kept) == [3] and len(kept) == 1
    with pytest.raises(RunError, match="image-000003.npz"):
        kept[3]


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "evaluations").write_text("a file where a folder should be")
    with pytest.raises(RunError, match="evaluations"):
        Cell.of(tmp_path, CONFIGURATION).append([make_record(0)])


def test_the_description_says_everything(tmp_path):
    cell = Cell.of(tmp_path, CONFIGURATION)
    cell.append([make_record(0)])
    described = json.loads((cell.folder / "cell.json").read_text())
    assert set(described["configuration"]) == {field.name for field in dataclasses.fields(Configuration)}
    assert described["versions"]["numpy"] == np.__version__ and "git_revision" in described
    # A cell of before these were written is a cell all the same.
    (cell.folder / "cell.json").write_text(json.dumps({name: described[name] for name in ("format", "configuration")}))
    assert Cell.open(cell.folder).configuration == CONFIGURATION
