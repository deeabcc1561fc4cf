"""What README.md and the guides show is what happens.

Blocks of ``python`` and ``sh`` are run as they stand, those of a page one after the other in one
folder; indented examples are not. The name brain-flair stands for a tiny checkpoint there.
"""

import json
import re
import shlex
import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import reader_study
import tiny
from accelerate.state import AcceleratorState
from nibabel.loadsave import save
from nibabel.nifti1 import Nifti1Image
from PIL import Image
from scans import write_scan

from cfgen import DIRECTIONS, Guided, Status, checkpoints
from cfgen.cli import COMMANDS, main, parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OF_OTHERS = set(  # accelerate's, ray's, and everybody's
    "--num_processes --multi_gpu --num_machines --machine_rank --main_process_ip "
    "--main_process_port --head --address --help".split()
)
there = pytest.mark.skipif(
    not (ROOT / "checkpoints" / "brain-flair" / "config.json").is_file(),
    reason="checkpoints/brain-flair is not there",
)
each_page = pytest.mark.parametrize("page", PAGES)
checkpoint_folder = tiny.checkpoint_folder
images = tiny.images


def test_two_commands_install_run_and_test():
    commands = re.findall(r"^    (\S.*)$", README, re.MULTILINE)
    assert "pip install -e . && python run_cf.py" in commands
    assert 'pip install -e ".[test]" && pytest' in commands
    assert (ROOT / "run_cf.py").is_file()


def test_two_minutes_are_enough_to_read_it():
    assert len(README.split()) < 1200


def test_every_guide_is_on_the_first_page():
    guides = {page for page in PAGES if page.startswith("docs/")}
    assert guides <= set(re.findall(r"\]\(([^)#]+)", README))


def slug(heading: str) -> str:
    """What a heading is called in a link, as GitHub does it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@there
@each_page
def test_links_and_pictures_are_there(page):
    targets = re.findall(r"\]\(([^)]+)\)", PAGES[page])
    for target in targets:
        if "://" in target:
            continue
        file, _, section = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        if section:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert section in [slug(heading) for heading in headings], target


@each_page
def test_every_option_that_is_shown_exists(page):
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*", PAGES[page]))
    known = [options.format_help() for options in parser()[1].values()]
    assert shown - OF_OTHERS <= set(re.findall(r"--[a-z-]+", " ".join(known)))


def test_every_status_is_explained():
    assert re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE) == [s.name for s in Status]


@each_page
def test_every_status_that_is_named_exists(page):
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+|[A-Z]+ED)`", PAGES[page]))
    assert named - {"PRIOR_GUIDED"} <= {s.name for s in Status}


def test_every_command_is_named():
    assert f"`cfgen {' | '.join(COMMANDS)}`" in README


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


@pytest.fixture(scope="module")
def template(checkpoint_folder, images, tmp_path_factory) -> Path:
    """The folder that a reader of the guides works in, and beside it the tiny brain-flair."""
    whole = tmp_path_factory.mktemp("guides")
    home, desk = whole / "checkpoints" / "brain-flair", whole / "desk"
    shutil.copytree(checkpoint_folder, home)
    for file in home.rglob("*.json"):
        text = file.read_text().replace('"dark"', '"healthy"').replace('"bright"', '"tumour"')
        file.write_text(text)

    chest = desk / "chest"  # the same pair, and two findings
    shutil.copytree(home, chest, ignore=shutil.ignore_patterns("prior", "classifier"))
    (chest / "oracle").rename(chest / "classifier")
    config = json.loads((home / "config.json").read_text())
    config = {name: config[name] for name in ("image", "generator", "classifier")}
    (chest / "config.json").write_text(json.dumps(config))
    config = json.loads((chest / "classifier" / "config.json").read_text())
    config |= {"classes": ["effusion", "nodule"], "head": "multilabel"}
    (chest / "classifier" / "config.json").write_text(json.dumps(config))

    shutil.copytree(images, desk / "images")
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 255
    Image.fromarray(mask).save(desk / "mask.png")
    (desk / "images" / "labels.csv").write_text(
        "file,label,mask,patient,split\none.png,healthy,../mask.png,p1,test\n"
        "b/three.npy,tumour,,p2,test\n"
    )
    noise = np.random.default_rng(0).integers(0, 200, (32, 12, 2), dtype=np.uint8)
    write_scan(desk / "scans" / "slice.dcm", noise[..., 0])
    save(Nifti1Image(noise.astype(np.int16), np.eye(4)), desk / "scans" / "volume.nii.gz")
    shutil.copytree(ROOT / "cfgen" / "study", desk / "cfgen" / "study")
    return whole


def command(line: str) -> int:
    """Run a line of a shell block in this process; returns its exit status."""
    words = shlex.split(line, comments=True)
    program = 2 if words[:2] == ["python", "run_cf.py"] else 1
    assert words[:program] in (["python", "run_cf.py"], ["cfgen"]), line
    argv = []
    for word in words[program:]:
        found = sorted(str(path) for path in Path().glob(word)) if "*" in word else []
        argv += found or [word]
    AcceleratorState._reset_state(reset_partial_state=True)
    return main(argv)


def think(row: dict[str, str]) -> dict[str, tuple[str, str]]:
    """What a reader of the example study answers."""
    return {
        "finding": (row["truth"], "4"),
        "likelihood": ("4" if row["truth"] == "tumour" else "2", "3"),
        "quality": ("yes", ""),
        "remarks": ("", ""),
    }


@pytest.mark.slow
@each_page
def test_every_block_runs_as_written(page, template, tmp_path, monkeypatch):
    desk = tmp_path / "desk"
    shutil.copytree(template / "desk", desk)
    monkeypatch.chdir(desk)
    monkeypatch.setattr(checkpoints, "ROOTS", (template / "checkpoints",))
    # Most of the time would go into what the guides do not show.
    monkeypatch.setitem(DIRECTIONS, "guided", partial(Guided, steps=15, rounds=2))
    scope: dict = {}
    blocks = BLOCK.findall(PAGES[page])
    assert blocks
    for language, text in blocks:
        assert language in ("python", "sh")
        if language == "python":
            exec(compile(text, page, "exec"), scope)
            continue
        for line in text.splitlines():
            if "answers-reader" in line:
                reader_study.answer(desk / "study", desk, think)
            assert command(line) == 0, line


def test_the_commit_that_is_shown_is_one_of_three_files():
    """Where the history is there."""
    shown = ("git", "show", "--name-only", "--format=%s", "50c270b")
    told = subprocess.run(shown, cwd=ROOT, capture_output=True, text=True, check=False)
    if told.returncode:
        pytest.skip("the history is not there")
    text = PAGES["CONTRIBUTING.md"]
    subject, *files = told.stdout.split("\n")
    assert f'`git show 50c270b` ("{subject}")' in text
    three = re.findall(r"^\d\. its \w+,? (?:file, |line in |row in |in )?`([^`]+)`", text, re.M)
    assert three == [
        "cfgen/directions/natural_gradient.py",
        "cfgen/directions/__init__.py",
        "tests/cases.py",
    ]
    assert set(three) <= set(files)
