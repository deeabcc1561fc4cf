"""What README.md shows is what happens."""

import re
from pathlib import Path

import pytest

from cfgen import Status
from cfgen.cli import parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
there = pytest.mark.skipif(
    not (ROOT / "checkpoints" / "brain-flair" / "config.json").is_file(),
    reason="checkpoints/brain-flair is not there",
)


def test_two_commands_install_run_and_test():
    commands = re.findall(r"^    (\S.*)$", README, re.MULTILINE)
    assert "pip install -e . && python run_cf.py" in commands
    assert 'pip install -e ".[test]" && pytest' in commands
    assert (ROOT / "run_cf.py").is_file()


@there
def test_links_and_pictures_are_there():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    local = [target for target in targets if "://" not in target]
    assert local
    for target in local:
        assert (ROOT / target).exists(), target


def test_every_option_that_is_shown_exists():
    shown = set(re.findall(r"--[a-z][a-z_-]*", README))
    of_accelerate = {"--num_processes", "--multi_gpu"}
    known = [options.format_help() for options in parser()[1].values()]
    assert shown - of_accelerate <= set(re.findall(r"--[a-z-]+", " ".join(known)))


def test_every_status_is_explained():
    assert re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE) == [s.name for s in Status]


@there
def test_the_python_block_runs_as_written(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(compile(block, "README.md", "exec"), scope)
    assert [status.name for status in scope["cf"].status] == ["FLIPPED", "FLIPPED"]
    assert bool((scope["cf"].prob_after > 0.9).all())
    assert scope["images"].shape == (11, 2, 1, 128, 128)
    assert (tmp_path / "case.npz").is_file()
