"""Our Keras classes, known to Keras in any process that imported `tfode_adv`, whoever imports Keras and when.

Keras reads a saved model only if the classes in it are registered, that is, their modules imported. These need
TensorFlow, so `import tfode_adv` imports them only where Keras is there already; else they follow as soon as it is. Who
never imports Keras, a program that shows its help, never waits for it.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from tfode_adv import startup

# All that register a class; a test holds them against the sources.
MODULES = (
    "tfode_adv.layers.blocks",
    "tfode_adv.layers.convolution",
    "tfode_adv.layers.dynamics",
    "tfode_adv.layers.initializers",
    "tfode_adv.layers.normalization",
    "tfode_adv.layers.ode_block",
    "tfode_adv.layers.post_norm",
    "tfode_adv.layers.relu_dynamics",
    "tfode_adv.layers.serializing",
    "tfode_adv.layers.shaping",
    "tfode_adv.layers.simplex_dynamics",
    "tfode_adv.layers.sine_dynamics",
    "tfode_adv.layers.skew",
    "tfode_adv.models.random_solver",
    "tfode_adv.models.wrappers",
    "tfode_adv.training.optimizer",
)
_KERAS, _TENSORFLOW, _OURS = "keras", "tensorflow", "tfode_adv."


def register_with_keras() -> None:
    """Imports the modules that register a class: now if Keras is there, else once it is."""
    if _KERAS in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Watch())


def _register() -> None:
    with startup.quiet():
        for name in MODULES:
            importlib.import_module(name)


class _Watch(importlib.abc.MetaPathFinder):
    """Notices the import that brings Keras, and registers when it is through.

    TensorFlow brings Keras too, and so does what of ours needs either: so these are watched, and what counts is the
    outermost import under way. Until it is through, modules are half filled.
    """

    def __init__(self) -> None:
        self._here = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in (_KERAS, _TENSORFLOW) and not fullname.startswith(_OURS):
            return None
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Watched(spec.loader, self)
        return spec

    def run(self, loader: Any, module: ModuleType) -> None:
        if getattr(self._here, "importing", False):
            loader.exec_module(module)
            return
        self._here.importing = True
        try:
            with startup.quiet():
                loader.exec_module(module)
        finally:
            self._here.importing = False
        if _KERAS in sys.modules:
            with contextlib.suppress(ValueError):
                sys.meta_path.remove(self)
            _register()


class _Watched(importlib.abc.Loader):
    """A module's loader until it has run, and in all that is asked of it."""

    def __init__(self, loader: Any, watch: _Watch) -> None:
        self._loader, self._watch = loader, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._watch.run(self._loader, module)
