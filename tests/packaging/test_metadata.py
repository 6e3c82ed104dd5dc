"""The versions that setup.cfg asks for, those that are tried, and what the papers of a distribution say agree."""

import configparser
import pathlib
import re

import pytest

import tfode_adv

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg")
requirements = pytest.importorskip("packaging.requirements")


def bounds():
    """Each requirement by name, as on the newest Python."""
    found = [requirements.Requirement(line) for line in SETUP["options"]["install_requires"].split("\n") if line]
    return {one.name.lower(): one.specifier for one in found}


def pins(name):
    lines = (ROOT / "packaging" / name).read_text().splitlines()
    return dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("file", ["colab.txt", "oldest.txt"])
def test_what_is_tried_is_allowed(file):
    asked = bounds()
    refused = [f"{name}=={version}" for name, version in pins(file).items() if version not in asked.get(name, version)]
    assert not refused


def test_every_lower_bound_is_tried():
    low = {name: re.search(r">=([\d.]+)", str(specifier))[1] for name, specifier in bounds().items()}
    tried = pins("oldest.txt")
    # On Python 3.11 there is a distutils without setuptools.
    missing = [
        name
        for name, version in low.items()
        if name != "setuptools" and not (tried[name] + ".").startswith(version + ".")
    ]
    assert not missing


def test_what_is_written_for_tensorboard_comes_with_it():
    assert "tensorboard" in bounds()


def test_one_version():
    assert f"version: {tfode_adv.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert newest == tfode_adv.__version__


def test_the_licence_is_named_and_there():
    assert SETUP["metadata"]["license"] == "Apache-2.0"
    assert "The tfode_adv authors" in (ROOT / "LICENSE").read_text()
    assert (ROOT / "tfode_adv" / "py.typed").exists()


def test_every_folder_of_recipes_is_installed():
    installed = set(SETUP["options.data_files"].values())
    assert installed == {f"configs/{folder.name}/*.cfg" for folder in (ROOT / "configs").iterdir()}
