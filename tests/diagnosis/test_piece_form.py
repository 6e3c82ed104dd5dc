import dataclasses
import json

import numpy as np

from tfode_adv.diagnosis import piece_form


@dataclasses.dataclass(frozen=True)
class Inner:
    name: str
    curve: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Piece:
    share: float | None
    by_source: dict[str, np.ndarray]
    rows: list[Inner]
    radii: tuple[float, ...]


def test_a_piece_is_the_same_after_json():
    piece = Piece(None, {"a/b": np.arange(3)}, [Inner("x", np.eye(2)), Inner("y")], (0.5, 1.0))
    values, arrays = piece_form.packed(piece)
    again = piece_form.unpacked(Piece, json.loads(json.dumps(values)), arrays)
    assert again.share is None and again.radii == (0.5, 1.0)
    assert list(again.by_source) == ["a/b"] and again.by_source["a/b"].tolist() == [0, 1, 2]
    assert [type(row) for row in again.rows] == [Inner, Inner]
    assert again.rows[0].curve.tolist() == np.eye(2).tolist() and again.rows[1] == Inner("y")


def test_another_form_is_told_apart():
    @dataclasses.dataclass(frozen=True)
    class Other:
        share: float | None
        by_source: dict[str, np.ndarray]
        rows: list[str]
        radii: tuple[float, ...]

    forms = [json.dumps(piece_form.form(kind)) for kind in (Piece, Other)]
    assert forms[0] != forms[1] and "curve" in forms[0]
