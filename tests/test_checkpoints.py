"""Checkpoints: a folder or a name to models, without pickle; and the one that comes with cfgen."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import tiny
import torch

from cfgen import checkpoints, load_checkpoint
from cfgen.checkpoints import available
from cfgen.plausibility import Reference
from cfgen.priors import LatentFlow
from cfgen.problem import in_blocks

ROOT = Path(__file__).parents[1]
BRAIN = ROOT / "checkpoints" / "brain-flair"
there = pytest.mark.skipif(
    not (BRAIN / "config.json").is_file(), reason="checkpoints/brain-flair is not there"
)
checkpoint_folder = tiny.checkpoint_folder


@pytest.fixture
def config(checkpoint_folder):
    return json.loads((checkpoint_folder / "config.json").read_text())


@pytest.fixture
def copy(checkpoint_folder, tmp_path):
    """A copy of the tiny checkpoint that a test may spoil."""
    return Path(shutil.copytree(checkpoint_folder, tmp_path / "copy"))


def raises(error, message):
    return pytest.raises(error, match=f"^{re.escape(message)}$")


def test_a_folder_becomes_frozen_models(checkpoint_folder):
    ck = load_checkpoint(str(checkpoint_folder))
    assert (ck.name, ck.channels, ck.size) == ("tiny", 1, (32, 32))
    assert ck.oracle is not None and isinstance(ck.prior, LatentFlow)
    assert ck.classifier.classes == ck.oracle.classes == ck.prior.classes == ("dark", "bright")
    for model in (ck.generator, ck.classifier, ck.oracle, ck.prior):
        assert not any(p.requires_grad for p in model.parameters())
        assert not any(m.training for m in model.modules())
        assert all(p.dtype == torch.float32 for p in model.parameters())
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    z = ck.generator.encode(x)
    assert z.shape == (2, *ck.prior.shape)
    assert ck.generator.decode(z).shape == x.shape
    assert ck.classifier(x).shape == ck.oracle(x).shape == (2, 2)
    assert torch.equal(ck.generator.encode(x), z)


def test_hashes_are_those_of_the_weights_and_of_what_is_set_beside_them(checkpoint_folder):
    parts = [
        "autoencoder/config.json",
        "autoencoder/diffusion_pytorch_model.safetensors",
        "classifier/config.json",
        "classifier/model.pt",
        "config.json",
        "oracle/config.json",
        "oracle/model.safetensors",
        "prior/config.json",
        "prior/diffusion_pytorch_model.safetensors",
        "prior/prior.json",
        "prior/scheduler_config.json",
    ]
    expected = {p: hashlib.sha256((checkpoint_folder / p).read_bytes()).hexdigest() for p in parts}
    assert load_checkpoint(str(checkpoint_folder)).hashes == expected


def test_calibration_is_one_row_of_scores_a_class(checkpoint_folder):
    calibration = load_checkpoint(str(checkpoint_folder)).calibration
    assert calibration.keys() == {"dark", "bright"}
    torch.testing.assert_close(calibration["dark"], torch.arange(19) / 100)
    torch.testing.assert_close(calibration["bright"], torch.arange(19) / 50)


def test_a_name_is_looked_up_beside_the_package_and_inside_it(copy, tmp_path, monkeypatch):
    for root in ("clone", "wheel"):
        shutil.copytree(copy, tmp_path / root / f"from-{root}")
    (tmp_path / "clone" / "no-checkpoint").mkdir()
    monkeypatch.setattr(checkpoints, "ROOTS", (tmp_path / "clone", tmp_path / "wheel"))
    monkeypatch.chdir(tmp_path)
    assert available() == ["from-clone", "from-wheel"]
    for name, expected in (
        ("from-clone", "from-clone"),
        ("from-wheel", "from-wheel"),
        ("copy", "copy"),
        (str(copy / "."), "copy"),
    ):
        assert checkpoints.find(name).resolve().name == expected
    with raises(
        ValueError,
        "expected a checkpoint folder or one of from-clone, from-wheel, got 'no-checkpoint'",
    ):
        load_checkpoint("no-checkpoint")


def test_no_checkpoint_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "ROOTS", (tmp_path,))
    with raises(ValueError, "expected a checkpoint folder or one of (none found), got 'x'"):
        load_checkpoint("x")


def test_oracle_prior_and_calibration_may_be_absent(copy, config):
    for part in ("oracle", "prior", "calibration"):
        del config[part]
    (copy / "config.json").write_text(json.dumps(config))
    ck = load_checkpoint(str(copy))
    assert (ck.oracle, ck.prior, ck.calibration) == (None, None, {})


@pytest.mark.parametrize("part", ["image", "generator", "classifier"])
def test_what_must_be_there_is_missed_by_its_name(part, copy, config):
    del config[part]
    (copy / "config.json").write_text(json.dumps(config))
    names = ", ".join(config)
    with raises(ValueError, f"expected '{part}' in copy/config.json, got {names}"):
        load_checkpoint(str(copy))


def test_settings_of_config_json_count(copy, config):
    """sigma, the range of values, size and stem; and those of a classifier."""
    before = load_checkpoint(str(copy))
    assert before.generator.sigma == 0.0
    config["generator"] |= {"sigma": 1.25, "value_range": [-1.0, 1.0]}
    config["image"]["size"] = [32, 48]
    (copy / "config.json").write_text(json.dumps(config))
    after = load_checkpoint(str(copy))
    assert after.generator.sigma == 1.25
    assert after.size == (32, 48)
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(after.generator.encode(x), before.generator.encode(2 * x - 1))
    z = before.generator.encode(x)
    torch.testing.assert_close(after.generator.decode(z), (before.generator.decode(z) + 1) / 2)

    part = copy / "classifier" / "config.json"
    settings = json.loads(part.read_text())
    part.write_text(json.dumps(settings | {"temperature": 4.0}))
    cooled = load_checkpoint(str(copy)).classifier
    torch.testing.assert_close(cooled(x), before.classifier(x) / 4)
    part.write_text(json.dumps(settings | {"mean": 0.5, "std": 2.0}))
    moved = load_checkpoint(str(copy)).classifier
    torch.testing.assert_close(moved(x), before.classifier((x - 0.5) / 2 + settings["mean"]))

    config["generator"]["stem"] = 4
    (copy / "config.json").write_text(json.dumps(config))
    with raises(ValueError, "expected stem 2 for a model of 4 channels, got 4"):
        load_checkpoint(str(copy))


def test_the_share_of_a_committee_counts(copy, checkpoint_folder):
    members, x = copy / "classifier", torch.linspace(0.3, 0.7, 5).view(5, 1, 1, 1)
    x = x.expand(5, 1, 32, 32)
    for name, mean in (("a", 0.4), ("b", 0.6)):
        shutil.copytree(checkpoint_folder / "classifier", members / name)
        settings = json.loads((members / name / "config.json").read_text())
        (members / name / "config.json").write_text(json.dumps(settings | {"mean": mean}))
    odds = []
    for share in (0.25, 0.75):
        config = {
            "architecture": "committee:a,b",
            "arguments": {"share": share},
            "classes": ["dark", "bright"],
            "channels": 1,
            "head": "sigmoid",
        }
        (members / "config.json").write_text(json.dumps(config))
        ck = load_checkpoint(str(copy))
        odds.append(ck.classifier(x).diff(dim=1)[:, 0])
    a, b = (100 * (x[:, 0, 0, 0] - mean) for mean in (0.4, 0.6))
    mean, weakest = (a + b) / 2, torch.where(a.sign() == b.sign(), 1, 0) * a.abs().minimum(b.abs())
    weakest = weakest * a.sign()
    for share, found in zip((0.25, 0.75), odds, strict=True):
        torch.testing.assert_close(found, (1 - share) * weakest + share * mean, atol=1e-3, rtol=0)


def test_plausibility_counts_for_the_weights_it_was_measured_with_alone(copy, config):
    """Another hash, and one that is missing, are no match."""
    sketches, trips = torch.rand(6, 8), torch.rand(6) + 0.1
    reference = Reference.fit(sketches, trips, list("aabbcc"), (32, 32), seed=4)
    calibration = {"dark": torch.tensor([0.5, 1.5])}
    hashes = load_checkpoint(str(copy)).hashes
    name = "autoencoder/diffusion_pytorch_model.safetensors"
    config["plausibility"] = "plausibility"
    (copy / "config.json").write_text(json.dumps(config))
    reference.save(copy / "plausibility", calibration, {name: hashes[name]})
    ck = load_checkpoint(str(copy))
    assert ck.reference is not None and ck.reference.seed == 4
    assert ck.calibration.keys() == {"dark"}  # of the reference, not of config.json
    for file, digest in ((name, "12"), ("autoencoder/gone.safetensors", "12")):
        reference.save(copy / "plausibility", calibration, {file: digest})
        got = hashes.get(file)
        with raises(
            ValueError,
            f"expected {file} with sha256 12, for which plausibility was measured, "
            f"got {got} (python -m cfgen.training.plausibility renews it)",
        ):
            load_checkpoint(str(copy))


def test_every_kind_of_weights_is_hashed_and_nothing_else(tmp_path):
    kept = ["a.safetensors", "b.pt", "c.pth", "d.pt2", "config.json", "x/prior.json"]
    kept.append("x/scheduler_config.json")
    (tmp_path / "x").mkdir()
    for name in [*kept, "README.md", "metrics.json", "training.jsonl", "x/sample.png"]:
        (tmp_path / name).write_text(name)
    assert sorted(checkpoints.hashes_of(tmp_path)) == sorted(kept)


def test_models_go_where_they_are_asked_and_channels_lie_last_on_a_cpu(checkpoint_folder):
    ck = load_checkpoint(str(checkpoint_folder))
    assert ck.oracle is not None
    wide = [p for p in ck.oracle.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert wide and all(p.is_contiguous(memory_format=torch.channels_last) for p in wide)
    other = load_checkpoint(str(checkpoint_folder), device="meta")
    for model in (other.generator, other.classifier, other.oracle, other.prior):
        assert model is not None
        assert {p.device.type for p in model.parameters()} <= {"meta"}


def test_the_oracle_is_another_model_than_the_classifier(checkpoint_folder):
    ck = load_checkpoint(str(checkpoint_folder))
    assert ck.oracle is not None
    assert ck.classifier.config["architecture"] == "torchscript:model.pt"
    assert ck.oracle.config["architecture"] == "timm:resnet10t"


def test_a_checkpoint_is_called_as_its_folder_wherever_one_stands(copy, monkeypatch):
    monkeypatch.chdir(copy)
    assert load_checkpoint(".").name == "copy"


def test_missing_weights_are_an_error(copy):
    (copy / "classifier" / "model.pt").unlink()
    with raises(FileNotFoundError, f"expected model.pt in {copy / 'classifier'}, got none"):
        load_checkpoint(str(copy))


@there
def test_brain_flair_loads():
    ck = load_checkpoint("brain-flair")
    assert (ck.name, ck.channels, ck.size) == ("brain-flair", 1, (128, 128))
    assert ck.classifier.classes == ("healthy", "tumour")
    assert ck.oracle is not None and ck.oracle.classes == ck.classifier.classes
    assert ck.prior is not None and ck.prior.classes == ck.classifier.classes
    assert ck.calibration.keys() == {"healthy", "tumour"}
    for scores in ck.calibration.values():
        assert len(scores) >= 50
        assert bool(((scores >= 0) & scores.isfinite()).all())
    latent = ck.generator.encode(torch.rand(1, 1, 128, 128))
    assert isinstance(ck.prior, LatentFlow)
    assert latent.shape[1:] == ck.prior.shape


@there
def test_the_last_bits_of_a_slice_depend_on_neither_its_mates_nor_its_place():
    ck = load_checkpoint("brain-flair")
    x = torch.rand(6, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([5, 2, 0, 3, 1, 4])
    with torch.no_grad():
        z = in_blocks(ck.generator.encode, x)
        passes = ((ck.generator.encode, x), (ck.generator.decode, z), (ck.classifier, x))
        for f, rows in passes:
            out = in_blocks(f, rows)
            assert torch.equal(in_blocks(f, rows[order]), out[order])
            assert torch.equal(torch.cat([in_blocks(f, row) for row in rows.split(1)]), out)


@there
def test_brain_flair_is_small_and_holds_no_pickle():
    files = [p for p in BRAIN.rglob("*") if p.is_file()]
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".jsonl", ".md", ".png"}
    assert sum(p.stat().st_size for p in files) < 40e6


@there
def test_brain_flair_has_a_model_card():
    card = (BRAIN / "README.md").read_text(encoding="utf-8")
    lower = " ".join(card.lower().split())
    for word in ("tcga", "cancer imaging archive", "licen", "not for diagnosis", "seed"):
        assert word in lower, word
    for script in ("autoencoder", "classifier", "prior", "card"):
        assert f"python -m cfgen.training.{script}" in card
        assert (ROOT / "cfgen" / "training" / f"{script}.py").is_file()


@there
def test_brain_flair_is_as_good_as_it_must_be():
    metrics = json.loads((BRAIN / "metrics.json").read_text())
    assert metrics["split"] == "test"
    assert metrics["classifier"]["auc"]["value"] >= 0.97
    assert metrics["oracle"]["auc"]["value"] >= 0.95
