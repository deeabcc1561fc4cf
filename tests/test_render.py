"""The committed tables are those of the committed JSON files."""

import hashlib
import json
import re
from pathlib import Path
from xml.etree import ElementTree

from render import RESULTS, cell, render, table

ROOT = Path(__file__).parents[1]


def test_the_committed_tables_are_those_of_the_json(tmp_path):
    render(RESULTS, tmp_path)
    told = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == told
    for name in re.findall(r"\]\(([^)]+)\)", told):
        assert (RESULTS / name).exists(), name


def test_a_change_in_a_json_file_changes_its_table(tmp_path):
    record = json.loads((RESULTS / "frontier.json").read_text())
    record["directions"][0]["flipped"] = 0.1234
    (tmp_path / "frontier.json").write_text(json.dumps(record))
    render(tmp_path, tmp_path)
    assert "| 0.1234 |" in (tmp_path / "README.md").read_text(encoding="utf-8")
    drawn = (tmp_path / "frontier.svg").read_text()
    ElementTree.fromstring(drawn)
    for row in record["directions"]:
        assert f"{row['direction']}, {row['confidence']:g}: {row['flipped']:.0%} flip" in drawn


def test_scaling_is_drawn_from_the_parts_that_are_there(tmp_path):
    rate = "counterfactuals a second"
    rows = [{"batch": b, "method": "gradient", rate: b / 2} for b in (1, 2, 4)]
    record = {
        "batches": {"rows": rows, "seed": 0, "missing": {"latentshift": "pip install latentshift"}}
    }
    (tmp_path / "speed.json").write_text(json.dumps(record))
    render(tmp_path, tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "seed 0; missing latentshift `pip install latentshift`" in text
    assert "### batches" in text and "![Counterfactuals a second](scaling.svg)" in text
    assert "processes" not in (tmp_path / "scaling.svg").read_text()


def test_a_figure_of_an_earlier_checkpoint_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("render.CHECKPOINT", tmp_path)
    (tmp_path / "f.safetensors").write_bytes(b"weights")
    own = {"f.safetensors": hashlib.sha256(b"weights").hexdigest()}
    for hashes, said in ((own, 0), ({"f.safetensors": "0" * 64}, 1), (own | {"gone": "0"}, 1)):
        record = {"split": "test", "checkpoint": hashes, "rows": [{"a": 1}]}
        (tmp_path / "some.json").write_text(json.dumps(record))
        render(tmp_path, tmp_path)
        text = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert text.count("split test; **of an earlier checkpoint**") == said


def test_a_table_has_every_key_of_its_rows():
    rows = [{"a": 1.50, "b": {"median": 2.0, "least": 1.0, "most": 3.0, "repeats": 3}}, {"c": None}]
    assert table(rows).splitlines() == [
        "| a | b | c |",
        "| --- | --- | --- |",
        "| 1.5 | 2 (1–3) |  |",
        "|  |  | – |",
    ]
    assert cell({"median": 0.5, "least": 0.5, "most": 0.5, "repeats": 1}) == "0.5"
    assert cell(float("nan")) == "–"
