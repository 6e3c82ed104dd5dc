"""A package's names, each imported when it is first asked for (PEP 562), so that who asks for little waits for little.

A package says what it holds by imports for type checkers alone, and below them takes the two functions that do it:

    if TYPE_CHECKING:
        from tfode_adv.attacks.pgd import PGD

    __all__ = ["PGD"]
    __getattr__, __dir__ = on_demand.filled(__name__)
"""

import ast
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any


def filled(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package: the names that it imports for type checkers, and its modules."""

    def get(name: str) -> Any:
        home = _homes(package).get(name)
        if home is not None:
            value = getattr(importlib.import_module(home), name)
        elif not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}"):
            value = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        # Kept, so that it is asked for once.
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        found = vars(sys.modules[package])
        return sorted({*found["__all__"], *(name for name in found if name.startswith("__"))})

    return get, names


@functools.cache
def _homes(package: str) -> dict[str, str]:
    """Name to module, as the package's own source has them: a second list could differ from what type checkers see."""
    spec = sys.modules[package].__spec__
    source = spec.loader.get_source(package) if spec and spec.loader else ""
    blocks = [each for each in ast.parse(source).body if isinstance(each, ast.If)]
    imports = [each for block in blocks for each in block.body if isinstance(each, ast.ImportFrom)]
    # What a package imports from itself are its modules.
    imports = [each for each in imports if each.module != package]
    return {alias.asname or alias.name: str(each.module) for each in imports for alias in each.names}
