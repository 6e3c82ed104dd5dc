"""Starts a program of this checkout, in the checkout's own `.venv` where there is one."""

import importlib
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def start(name: str) -> None:
    """Runs `tfode_adv.cli.<name>`; a virtual environment that is active already stays so."""
    python = ROOT / ".venv" / "bin" / "python"
    if sys.prefix == sys.base_prefix and python.exists():
        os.execv(python, [str(python), *sys.argv])
    sys.path.insert(0, str(ROOT))
    importlib.import_module(f"tfode_adv.cli.{name}").run()
