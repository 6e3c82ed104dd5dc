"""Every evidence pack under results/ holds, and no longer once a pixel of it is moved."""

import pathlib

import numpy as np
import pytest

from tfode_adv.cli import app, verify
from tfode_adv.evaluation.evidence import Pack

RESULTS = pathlib.Path(__file__).resolve().parents[2] / "results"
PACKS = sorted(RESULTS.rglob("*.npz"))


@pytest.mark.parametrize("path", PACKS, ids=lambda path: path.relative_to(RESULTS).as_posix())
def test_a_committed_pack_holds(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pack = Pack.read(path)
    # The text beside it quotes the seal.
    assert pack.seal in path.parent.with_name("README.md").read_text()
    pack["adversarial"][0, 0, 0, 0] = np.nextafter(pack["adversarial"][0, 0, 0, 0], np.float32(2))
    pack.write("moved.npz")
    assert app.call(verify.main, verify.FLAGS, ["verify", str(path), "moved.npz"], positional=True) == 1
    said, error = capsys.readouterr()
    assert (
        f"\n{len(pack)} of {len(pack)} images hold:" in said and "\nimage 0: its adversarial image was changed" in said
    )
    assert error == "verify: 'moved.npz' does not hold\n"
