"""The site: Markdown and notebooks by MyST-NB, the reference from docstrings, no file from elsewhere."""

import os
import pathlib
import re

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

ROOT = pathlib.Path(__file__).resolve().parents[1]
project, author = "tfode_adv", "The tfode_adv authors"
copyright = author
release = version = re.search(r'__version__ = "(.+)"', (ROOT / "tfode_adv" / "__init__.py").read_text())[1]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"tfode_adv {release}"
exclude_patterns = ["_build"]

# Headings are anchors, so that the links between pages are checked.
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
# A notebook's first cell installs the package where it is missing; widgets would be fetched from elsewhere.
nb_ipywidgets_js = {}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# What others documented, or Keras asks for, is no part of this reference.
autodoc_inherit_docstrings = False
autodoc_default_options = {
    "members": True,
    "imported-members": True,
    "exclude-members": "from_config,get_config,build,call,compute_output_shape,Results,ChosenBySolver,DormandPrince",
}
napoleon_google_docstring, napoleon_numpy_docstring = True, False
# A named tuple's fields are members already; described as objects they would be there twice.
napoleon_use_ivar = True


def _as_rst(app, what, name, obj, options, lines):
    """Docstrings are written as Markdown's plainest part: literals in backticks, else text."""
    text = "\n".join(lines)
    parts = re.split(r"(`+[^`]+`+)", text)
    for i, part in enumerate(parts):
        if part.startswith("`"):
            parts[i] = f"``{part.strip('`')}``" + ("\\ " if parts[i + 1][:1].isalnum() else "")
        else:
            part = re.sub(r"(?<=\w)_(?!\w)", r"\\_", part)
            parts[i] = part if part.strip() == "*" else re.sub(r"(?<!^)([*|])", r"\\\1", part)
    lines[:] = "".join(parts).split("\n")


def setup(app):
    app.connect("autodoc-process-docstring", _as_rst, priority=100)
