"""The papers of the house: licence, citation, and what the package says of itself."""

import hashlib
import re
from pathlib import Path

import yaml

from cfgen import __version__

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
# The text at apache.org/licenses/LICENSE-2.0.txt, to the letter.
APACHE = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_the_licence_is_apache_2_to_the_letter():
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE


def test_the_package_names_its_licence_once():
    assert 'license = "Apache-2.0"\nlicense-files = ["LICENSE"]\n' in PROJECT
    # Beside an SPDX expression a classifier of the licence is refused (PEP 639).
    assert "License ::" not in PROJECT


def test_the_pythons_that_are_named_are_those_that_are_allowed():
    (first, end) = re.findall(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', PROJECT)[0]
    named = re.findall(r"Python :: 3\.(\d+)", PROJECT)
    assert [int(minor) for minor in named] == list(range(int(first), int(end)))


def test_the_citation_is_valid_cff():
    """What schema 1.2.0 requires, and no field that it does not know."""
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cff.keys()
    known = {"type", "version", "license", "abstract", "keywords"}
    assert cff.keys() <= {"cff-version", "message", "title", "authors"} | known
    assert cff["cff-version"] == "1.2.0"
    assert cff["type"] == "software"
    assert cff["authors"] == [{"name": "The cfgen authors"}]
    assert cff["license"] == "Apache-2.0"
    assert cff["version"] == __version__
    for name in ("message", "title", "abstract"):
        assert isinstance(cff[name], str) and cff[name]
    assert all(isinstance(word, str) for word in cff["keywords"])
    assert len(set(cff["keywords"])) == len(cff["keywords"]) > 0
