"""The checkpoint on real slices of patients that it was not trained on."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from scipy.stats import mannwhitneyu

from cfgen import load_checkpoint
from cfgen.data import ImageFolder, read_image, read_picture
from cfgen.engine import Engine, Settings
from cfgen.plausibility import LPIPS

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "lgg-flair-128"
BRAIN = ROOT / "checkpoints" / "brain-flair"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data/lgg-flair-128 is not there"),
    pytest.mark.skipif(
        not (BRAIN / "metrics.json").is_file(), reason="checkpoints/brain-flair is not there"
    ),
]


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint("brain-flair")


@torch.no_grad()
def test_the_classifier_is_as_good_as_recorded(checkpoint):
    items = ImageFolder(DATA, split="test")
    images = [read_image(item.path, channels=1, size=(128, 128)) for item in items]
    p = torch.cat(
        [checkpoint.classifier(x).softmax(1)[:, 1] for x in torch.stack(images).split(32)]
    )
    sick = torch.tensor([item.label == "tumour" for item in items])
    # The area under the ROC curve is the share of pairs in the right order.
    auc = mannwhitneyu(p[sick], p[~sick]).statistic / (sick.sum() * (~sick).sum())
    recorded = json.loads((BRAIN / "metrics.json").read_text())
    assert recorded["slices"] == len(items)
    assert float(auc) == pytest.approx(recorded["classifier"]["auc"]["value"], abs=0.005)


def test_slices_flip_and_the_written_picture_shows_it(checkpoint, tmp_path):
    items = ImageFolder(DATA, split="test")[::15][:24]
    assert len({item.patient for item in items}) >= 10
    engine = Engine(checkpoint, Settings(sweep=0), Accelerator(cpu=True), LPIPS())

    def load(item):
        return read_picture(item, channels=1, size=(128, 128))

    rows = engine.run(items, load, tmp_path / "out")
    right = [row for row in rows if row["source"] == row["label"]]
    assert len(right) >= 18
    flipped = 0
    for row in right:
        folder = tmp_path / "out" / "cases" / row["case"]
        with torch.no_grad():
            before, after = (
                checkpoint.classifier(read_image(folder / f"{name}.png", channels=1)[None]).argmax()
                for name in ("x", "x_cf")
            )
        names = checkpoint.classifier.classes
        assert names[before] == row["source"]
        assert (row["status"] == "FLIPPED") == (names[after] == row["target"])
        flipped += row["status"] == "FLIPPED"
    assert flipped / len(right) >= 0.95
