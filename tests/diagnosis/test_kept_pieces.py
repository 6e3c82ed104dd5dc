import numpy as np
import pytest

from tfode_adv.diagnosis.kept_pieces import KeptPieces


@pytest.fixture
def work():
    calls = []

    def compute():
        calls.append(1)
        return {"share": 0.5}, {"turned": np.array([True, False])}

    compute.calls = calls
    return compute


def test_a_finished_stage_is_not_computed_again(tmp_path, work):
    first = KeptPieces(tmp_path, {"eps": 0.1})("table", work, tol=1.0)
    values, arrays = KeptPieces(tmp_path, {"eps": 0.1})("table", work, tol=1.0)
    assert len(work.calls) == 1
    assert values == first[0] == {"share": 0.5}
    np.testing.assert_array_equal(arrays["turned"], [True, False])


def test_other_settings_are_another_stage(tmp_path, work):
    KeptPieces(tmp_path, {"eps": 0.1})("table", work, tol=1.0)
    KeptPieces(tmp_path, {"eps": 0.1})("table", work, tol=0.1)
    KeptPieces(tmp_path, {"eps": 0.2})("table", work, tol=1.0)
    assert len(work.calls) == 3


def test_a_damaged_stage_is_computed_again(tmp_path, work):
    KeptPieces(tmp_path, {})("table", work)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    KeptPieces(tmp_path, {})("table", work)
    assert len(work.calls) == 2


def test_names_become_safe_file_names(tmp_path, work):
    KeptPieces(tmp_path, {})("../PGD-10, tau = 1", work)
    (file,) = tmp_path.iterdir()
    assert file.parent == tmp_path
