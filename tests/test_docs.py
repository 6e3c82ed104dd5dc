"""What can be told of the documents without building them: the site itself is checked by `make docs`."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize(
    "page", sorted(DOCS.rglob("*.md")) + [ROOT / "BUILD_NOTES.md", ROOT / "CONTRIBUTING.md"], ids=str
)
def test_files_that_a_page_names_are_there(page):
    if "_build" in page.parts:
        return
    named = re.findall(r"`((?:tests|tfode_adv|docs|packaging|results|configs)/[\w./-]+)`", page.read_text())
    assert not [name for name in named if not (ROOT / name).exists() and name != "docs/_build/html/index.html"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_in_colab_installs_itself_and_holds_no_outputs(notebook):
    title, install, *rest = json.loads(notebook.read_text())["cells"]
    repository = re.search(r"^url = https://github\.com/(\S+)", (ROOT / "setup.cfg").read_text(), re.MULTILINE)[1]
    link = f"https://colab.research.google.com/github/{repository}/blob/main/docs/notebooks/{notebook.name}"
    assert link in "".join(title["source"])
    assert f'pip install -q "tfode_adv @ git+https://github.com/{repository}"' in "".join(install["source"])
    assert not any(cell.get("outputs") for cell in rest)


def test_every_guard_of_a_decision_is_a_test():
    for page in (DOCS / "decisions").glob("*.md"):
        if page.stem != "index":
            assert re.search(r"^\* `(tests/|make test)", page.read_text(), re.MULTILINE), page
