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
    try:
        program = importlib.import_module(f"tfode_adv.cli.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "tfode_adv":
            raise
        sys.exit(
            f"{name}: {error.msg}: this checkout is not installed. `make demo` installs it into .venv; or "
            "`pip install .` in an environment of your own, and start the programs from there"
        )
    except ImportError as error:
        sys.exit(f"{name}: {' '.join(str(error).split())}")
    program.run()
