import numpy as np
import pytest

from tfode_adv.errors import RunError
from tfode_adv.training.checkpoints import Checkpoints, locked


def _save(store, steps):
    return [store.save(step, {"w": np.full(5, step, np.float32)}, {"step": step}) for step in steps]


def test_the_last_three_stay_and_the_newest_comes_back(tmp_path):
    store = Checkpoints(tmp_path)
    _save(store, (1, 2, 9, 10, 100))
    assert sorted(int(path.name.split("-")[1]) for path in tmp_path.iterdir()) == [9, 10, 100]
    arrays, note, path = store.newest()
    assert note == {"step": 100} and path.name.startswith("step-000000100-")
    np.testing.assert_array_equal(arrays["w"], np.full(5, 100, np.float32))


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_a_damaged_newest_is_reported_and_the_one_before_used(tmp_path, damage):
    lines = []
    store = Checkpoints(tmp_path, report=lines.append)
    _, newest = _save(store, (1, 2))
    data = bytearray(newest.read_bytes())
    if damage == "truncate":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    assert store.newest()[1] == {"step": 1}
    assert len(lines) == 1 and newest.name in lines[0] and "checksum" in lines[0]


def test_a_step_saved_after_going_back_stays_and_the_later_ones_go(tmp_path):
    store = Checkpoints(tmp_path, report=lambda line: None)
    for path in _save(store, (4, 8, 9)):
        path.write_bytes(b"damaged")
    whole = _save(store, (5, 6))
    assert {path.name.split("-")[1] for path in tmp_path.iterdir()} == {"000000004", "000000005", "000000006"}
    assert store.newest()[2] == whole[-1]


def test_nothing_is_unpickled(tmp_path):
    store = Checkpoints(tmp_path, report=lambda line: None)
    store.save(1, {"w": np.array([{"a": 1}], dtype=object)}, {})
    assert store.newest() is None


def test_one_best(tmp_path):
    store = Checkpoints(tmp_path)
    for value in (3.0, 4.0):
        store.save_best({"w": np.array(value)}, {"error": value})
    assert store.best()[0]["w"] == 4.0 and len(list(tmp_path.iterdir())) == 1
    assert store.newest() is None


def test_a_folder_is_held_once(tmp_path):
    with locked(tmp_path), pytest.raises(RunError, match="in use"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_damaged_checkpoints_are_set_aside_and_none_is_deleted(tmp_path):
    store = Checkpoints(tmp_path / "checkpoints", report=lambda line: None)
    _, second, third = _save(store, (1, 2, 3))
    for path in (second, third):
        path.write_bytes(b"damaged")
    assert store.newest_or_damaged()[1] == {"step": 1}
    _save(store, (2, 3, 4, 5))
    assert {path.name for path in (tmp_path / "checkpoints-damaged").iterdir()} == {second.name, third.name}
    assert store.newest()[1] == {"step": 5}


def test_where_every_checkpoint_is_damaged_nothing_is_touched(tmp_path):
    store = Checkpoints(tmp_path, report=lambda line: None)
    for path in _save(store, (1, 2)):
        path.write_bytes(b"damaged")
    before = sorted(tmp_path.iterdir())
    for _ in range(2):
        with pytest.raises(RunError, match=r"every checkpoint .* is damaged.*--overwrite"):
            store.newest_or_damaged()
    assert sorted(tmp_path.iterdir()) == before


def test_a_later_checkpoint_that_is_damaged_is_not_deleted_either(tmp_path):
    store = Checkpoints(tmp_path / "checkpoints", report=lambda line: None)
    _, whole, damaged = _save(store, (1, 8, 9))
    damaged.write_bytes(b"damaged")
    _save(store, (5,))
    assert not whole.exists()
    assert [path.read_bytes() for path in (tmp_path / "checkpoints-damaged").iterdir()] == [b"damaged"]
