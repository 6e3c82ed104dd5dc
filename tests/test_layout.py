"""Imports point one way: a package may import those below it, and nothing imports the programs. Public functions say
what they take and give."""

import ast
import pathlib

from tfode_adv.registration import MODULES

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "tfode_adv"
# Lowest first; those of one row stand beside each other and do not import one another, except that
# the row of leaves may.
LAYERS = (
    ("errors", "files", "on_demand", "startup", "registration", "progress", "run_folder")
    + ("tensorflow_internals", "keras_internals"),
    ("solvers", "data", "published", "rendering"),
    ("layers", "analysis"),
    ("models",),
    ("attacks", "interop"),
    ("training", "evaluation"),
    ("zoo",),
    ("diagnosis",),
    ("papers", "reports"),
    ("cli",),
)
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}
SCREEN = 60


def _imports(file):
    """(dotted name, line) of all that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            yield from ((f"{dots}{node.module or ''}.{alias.name}", node.lineno) for alias in node.names)


def _parts_imported(file):
    """The parts of the package that a file imports."""
    for name, line in _imports(file):
        head, _, rest = name.partition(".")
        part = rest.partition(".")[0]
        if not head:
            yield "a relative import", line
        elif head == "tfode_adv" and part and not part.startswith("__"):
            yield part, line


def _modules_imported(file):
    """The package's modules that a file imports."""
    for name, _ in _imports(file):
        parts = name.split(".")
        while len(parts) > 1 and parts[0] == "tfode_adv":
            path = PACKAGE.parent.joinpath(*parts)
            found = [one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()]
            if found:
                yield found[0]
                break
            parts.pop()


def _files():
    return [file for file in sorted(PACKAGE.rglob("*.py")) if file != PACKAGE / "__init__.py"]


def _upward_imports(file):
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for imported, line in _parts_imported(file):
        rank = RANK.get(imported, len(LAYERS))
        if not (rank < RANK[part] or imported == part or rank == RANK[part] == 0):
            yield f"{file.relative_to(PACKAGE)}:{line}: {part} must not import {imported}"


def test_imports_point_down():
    assert not [fault for file in _files() for fault in _upward_imports(file)]


def test_no_module_imports_itself_by_way_of_others():
    """Imports for type checkers and imports inside functions count too."""
    ahead = {file: set(_modules_imported(file)) for file in _files()}
    while free := [file for file, needed in ahead.items() if not needed]:
        ahead = {file: needed - {*free} for file, needed in ahead.items() if file not in free}
    assert not [str(file.relative_to(PACKAGE)) for file in ahead]


def _length(function):
    """Lines of a function's body, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


def test_a_function_fits_a_screen():
    long = {
        f"{file.relative_to(PACKAGE)}: {node.name}": _length(node)
        for file in _files()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and _length(node) > SCREEN
    }
    assert not long


def _public_functions(node, of_class=False):
    """(function, whether its first argument is the object or class) of a module or class, those of its classes too."""
    for each in node.body:
        if getattr(each, "name", "_").startswith("_"):
            continue
        if isinstance(each, ast.ClassDef):
            yield from _public_functions(each, of_class=True)
        elif isinstance(each, ast.FunctionDef):
            yield each, of_class and "staticmethod" not in {getattr(one, "id", "") for one in each.decorator_list}


def test_public_functions_have_type_hints():
    bare = []
    for file in _files():
        for function, bound in _public_functions(ast.parse(file.read_text())):
            arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
            if function.returns is None or any(one.annotation is None for one in arguments[bound:]):
                bare.append(f"{file.relative_to(PACKAGE)}:{function.lineno}: {function.name}")
    assert not bare


def test_every_part_has_its_place():
    parts = {
        path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.name[0] != "_" and path.suffix != ".typed"
    }
    assert parts == set(RANK)


def test_what_a_saved_model_may_hold_is_registered_with_keras():
    """Keras finds a class in a saved model only if its module was imported."""
    registering = [file for file in _files() if "register_keras_serializable" in file.read_text()]
    assert registering
    modules = {".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in registering}
    assert modules == set(MODULES)


def test_no_name_of_a_package_is_that_of_a_module_in_it():
    """Such a name would be the function until somebody imports the module, and the module from then on."""
    filled = [file for file in _files() if "on_demand.filled" in file.read_text() and file.name == "__init__.py"]
    assert filled
    for file in filled:
        modules = {path.stem for path in file.parent.glob("*.py")}
        own = ".".join(file.parent.relative_to(PACKAGE.parent).parts)
        imports = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        names = {alias.name for node in imports if node.module != own for alias in node.names}
        assert not names & modules, file
