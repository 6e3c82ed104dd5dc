"""torchdiffeq 0.0.1, the version the papers' programs ran on, beside the one that is installed."""

import importlib.util
import pathlib
import sys
from types import ModuleType

FOLDER = pathlib.Path(sys.prefix, "papers")


def torchdiffeq(folder: pathlib.Path = FOLDER) -> ModuleType:
    """The package in `folder`, where `make bench` puts it.

    Raises:
        SystemExit: it is not there.
    """
    package = folder / "torchdiffeq"
    if not (package / "__init__.py").exists():
        raise SystemExit(f"{folder} has no torchdiffeq: pip install --no-deps --target={folder} torchdiffeq==0.0.1")
    # Under a name of its own, so that both versions serve one process.
    name = "torchdiffeq_of_the_papers"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, package / "__init__.py", submodule_search_locations=[str(package)]
        )
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]
