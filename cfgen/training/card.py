"""Measure a checkpoint on test; write config.json, metrics.json, samples and the model card.

Intervals are 95 % percentile bootstraps over patients: slices of one patient are not independent.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from cfgen import metrics
from cfgen.checkpoints import load_checkpoint
from cfgen.classifiers.adapter import Classifier
from cfgen.plausibility import LPIPS
from cfgen.training.classifier import CLASSES
from cfgen.training.common import load_masks, load_split
from cfgen.training.lesions import cut, replace

CONFIG = {
    "image": {"channels": 1, "size": [128, 128]},
    "generator": {"folder": "autoencoder", "stem": 4, "value_range": [0.0, 1.0], "sigma": 1.5},
    "classifier": "classifier",
    "oracle": "oracle",
    "prior": "prior",
}
COMMITTEE = {
    "architecture": "committee:evidence,evidence-2,plain,plain-2",
    "arguments": {"share": 0.2},
    "classes": CLASSES,
    "channels": 1,
    "head": "sigmoid",
}
COMMANDS = (
    "autoencoder --steps 7000 --every 500 --seed 0 --out CKPT/autoencoder",
    "classifier --model oracle --steps 1200 --every 200 --seed 1 --radius 0 --real-only "
    "--out CKPT/oracle",
    "prior --steps 1800 --copies 6 --seed 0 --real-only --autoencoder CKPT/autoencoder "
    "--out CKPT/prior",
    "prior --steps 1300 --copies 6 --seed 1 --lr 5e-4 --real-only --resume "
    "--autoencoder CKPT/autoencoder --out CKPT/prior",
    "autoencoder --decoder-only --steps 900 --lr 3e-4 --every 150 --seed 0 --out CKPT/autoencoder",
    "segmenter --steps 1200 --every 100 --seed 0 --out CKPT-judges/segmenter",
    "prior --steps 700 --every 100 --copies 3 --seed 2 --lr 4e-4 --resume "
    "--autoencoder CKPT/autoencoder --out CKPT/prior",
    "classifier --model evidence --steps 2000 --every 250 --seed 7 --radius 0.6 "
    "--autoencoder CKPT/autoencoder --out CKPT/classifier/evidence",
    "classifier --model evidence --steps 1800 --every 200 --seed 11 --radius 0.5 --made 0.5 "
    "--autoencoder CKPT/autoencoder --out CKPT/classifier/evidence-2",
    "classifier --model target --steps 1400 --every 200 --seed 5 --radius 0.2 --real-only "
    "--out CKPT/classifier/plain",
    "classifier --model target --steps 1500 --every 150 --seed 5 --radius 0.25 --made 0.5 "
    "--autoencoder CKPT/autoencoder --out CKPT/classifier/plain-2",
    "card --checkpoint CKPT",
    "plausibility --checkpoint CKPT",
)
BATCH = 32


def interval(
    statistic: Callable[[np.ndarray], float], patients: list[str], seed: int = 0, n: int = 1000
) -> dict[str, float]:
    """A statistic of row indices with its 95 % bootstrap interval over patients."""
    rng = np.random.default_rng(seed)
    names = np.array(patients)
    groups = [np.flatnonzero(names == name) for name in sorted(set(patients))]
    values = []
    for _ in range(n):
        drawn = rng.integers(len(groups), size=len(groups))
        try:
            values.append(statistic(np.concatenate([groups[i] for i in drawn])))
        except ValueError:  # a draw without one of the classes has no AUC
            continue
    low, high = np.nanpercentile(values, [2.5, 97.5])
    value = statistic(np.arange(len(names)))
    return {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def reliability(p: Tensor, y: Tensor, bins: int = 10) -> list[dict[str, float]]:
    """Mean probability and observed share of tumours in each bin of probability."""
    index = (p * bins).long().clamp(max=bins - 1)
    return [
        {
            "n": int((index == b).sum()),
            "probability": round(float(p[index == b].mean()), 4),
            "observed": round(float(y[index == b].float().mean()), 4),
        }
        for b in range(bins)
        if (index == b).any()
    ]


def classification(p: Tensor, y: Tensor, patients: list[str]) -> dict:
    """AUC, accuracy, expected calibration error and reliability of P(tumour)."""

    def auc(i: np.ndarray) -> float:
        return float(roc_auc_score(y[i], p[i]))

    def accuracy(i: np.ndarray) -> float:
        return float(((p[i] > 0.5) == y[i].bool()).float().mean())

    def ece(i: np.ndarray) -> float:
        return float(binary_calibration_error(p[i], y[i], n_bins=10))

    return {
        "auc": interval(auc, patients),
        "accuracy": interval(accuracy, patients),
        "ece": interval(ece, patients),
        "reliability": reliability(p, y),
    }


def painted_over(data: Path, models: dict[str, Classifier]) -> dict[str, float]:
    """How often models call val slices "tumour" whose lesion the other half of the brain covers."""
    images, masks = load_split(data, "val")[0].float() / 255, (load_masks(data, "val") > 0).float()
    ill = masks.flatten(1).any(1)
    without = [replace(x, mask, mask) for x, mask in cut(images[ill], masks[ill])]
    told: dict[str, float] = {"slices": int(ill.sum())}
    for name, model in models.items():
        said = torch.cat([model(x).argmax(1) for x in without]).float()
        told[name] = round(float(said.mean()), 4)
    return told


@torch.no_grad()
def main() -> None:
    """Command line of this script."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--data", type=Path, required=True, help="folder with labels.csv")
    p.add_argument("--checkpoint", type=Path, required=True, help="folder to measure and complete")
    args = p.parse_args()
    folder: Path = args.checkpoint
    for path, config in ((folder, CONFIG), (folder / "classifier", COMMITTEE)):
        (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    checkpoint = load_checkpoint(str(folder))
    lpips, pair, oracle = LPIPS("st-alex"), checkpoint.generator, checkpoint.oracle
    assert oracle is not None  # CONFIG names one
    images, labels, patients = load_split(args.data, "test")
    columns: dict[str, list[Tensor]] = {k: [] for k in "psnr ssim lpips target oracle".split()}
    for batch in images.split(BATCH):
        x = batch.float() / 255
        rec = pair.decode(pair.encode(x)).clamp(0, 1)
        columns["psnr"].append(metrics.psnr(x, rec))
        columns["ssim"].append(metrics.ssim(x, rec))
        columns["lpips"].append(lpips(x, rec))
        columns["target"].append(checkpoint.classifier(x).softmax(1)[:, 1])
        columns["oracle"].append(oracle(x).softmax(1)[:, 1])
    values = {k: torch.cat(v) for k, v in columns.items()}

    def mean_of(name: str) -> Callable[[np.ndarray], float]:
        return lambda i: float(values[name][i].mean())

    report = {
        "split": "test",
        "slices": len(images),
        "patients": len(set(patients)),
        "reconstruction": {k: interval(mean_of(k), patients) for k in ("psnr", "ssim", "lpips")},
        "classifier": classification(values["target"], labels, patients),
        "oracle": classification(values["oracle"], labels, patients),
        "painted_over": painted_over(
            args.data, {"classifier": checkpoint.classifier, "oracle": oracle}
        ),
        "megabytes": round(sum(f.stat().st_size for f in folder.rglob("*.safetensors")) / 1e6, 1),
    }
    if checkpoint.prior is not None:
        classes = torch.arange(32) % len(CLASSES)
        drawn = pair.decode(checkpoint.prior.sample(classes, seed=1)).clamp(0, 1)
        rows = [drawn[classes == k][i : i + 8, 0] for k in range(len(CLASSES)) for i in (0, 8)]
        sheet = torch.cat([torch.cat(list(row), dim=1) for row in rows])
        Image.fromarray((sheet * 255).round().byte().numpy()).save(folder / "samples.png")
        p_drawn = checkpoint.classifier(drawn).argmax(1)
        report["prior"] = {
            "share": round(float((p_drawn == classes).float().mean()), 4),
            "samples": len(classes),
        }
    (folder / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")
    environment = Environment(loader=PackageLoader("cfgen.training", "."), autoescape=False)
    commands = [f"python -m cfgen.training.{line} --data DATA" for line in COMMANDS]
    card = environment.get_template("card.md.jinja").render(
        m=report, commands=commands, name=folder.resolve().name
    )
    (folder / "README.md").write_text(card + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
