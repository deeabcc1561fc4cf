"""What every training script needs: images in memory, augmentation, seeds, logging."""

from __future__ import annotations

import argparse
import csv
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def parser(doc: str | None, steps: int, batch_size: int, lr: float) -> argparse.ArgumentParser:
    """The options of all training scripts; the first line of ``doc`` describes the script."""
    p = argparse.ArgumentParser(
        description=(doc or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--data", type=Path, required=True, help="folder with labels.csv")
    p.add_argument("--out", type=Path, required=True, help="folder to save the model to")
    p.add_argument("--steps", type=int, default=steps, help="optimiser steps")
    p.add_argument("--batch-size", type=int, default=batch_size)
    p.add_argument("--lr", type=float, default=lr, help="peak learning rate")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--every", type=int, default=250, help="steps between validations and saves")
    return p


def seed_all(seed: int) -> None:
    """Seed Python and torch."""
    random.seed(seed)
    torch.manual_seed(seed)


def load_split(root: Path, split: str, classes: tuple[str, ...] = ("healthy", "tumour")):
    """Read one split of a labelled folder into memory.

    Args:
        root: Folder with ``labels.csv`` (columns file, label, split, patient).
        split: Name of the split.
        classes: Class names; the position is the label.

    Returns:
        Images (N, 1, H, W) uint8, labels (N,) int64, patients (list of N strings).
    """
    with open(root / "labels.csv", newline="", encoding="utf-8") as f:
        rows = [row for row in csv.DictReader(f) if row["split"] == split]
    images = np.stack([np.asarray(Image.open(root / r["file"]).convert("L")) for r in rows])
    labels = torch.tensor([classes.index(r["label"]) for r in rows])
    return torch.from_numpy(images)[:, None], labels, [r["patient"] for r in rows]


def load_masks(root: Path, split: str) -> Tensor:
    """Lesion masks of one split (N, 1, H, W) uint8, 0 or 255; empty where a slice has none."""
    with open(root / "labels.csv", newline="", encoding="utf-8") as f:
        rows = [row for row in csv.DictReader(f) if row["split"] == split]
    shape = np.asarray(Image.open(root / rows[0]["file"]).convert("L")).shape
    masks = [
        np.asarray(Image.open(root / r["mask"]).convert("L")) if r["mask"] else np.zeros(shape)
        for r in rows
    ]
    return torch.from_numpy(np.stack(masks) > 0)[:, None].byte() * 255


def augment(x: Tensor, degrees: float = 10.0, scale: float = 0.1, shift: float = 0.05) -> Tensor:
    """Mirror left to right, rotate, scale and shift each image by its own random amount.

    Args:
        x: Images (B, C, H, W) in [0, 1].
        degrees: Largest rotation.
        scale: Largest relative change of size.
        shift: Largest shift, as a fraction of the half width.

    Returns:
        Images of the same shape and range.
    """
    b = x.shape[0]
    a = torch.deg2rad((torch.rand(b) * 2 - 1) * degrees)
    s = 1 + (torch.rand(b) * 2 - 1) * scale
    mirror = torch.where(torch.rand(b) < 0.5, -1.0, 1.0)
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = mirror * torch.cos(a) * s, -torch.sin(a) * s
    theta[:, 1, 0], theta[:, 1, 1] = mirror * torch.sin(a) * s, torch.cos(a) * s
    theta[:, :, 2] = (torch.rand(b, 2) * 2 - 1) * shift
    grid = torch.nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    return torch.nn.functional.grid_sample(x, grid, align_corners=False)


def relight(x: Tensor, gain: float = 0.2, gamma: float = 0.2) -> Tensor:
    """Change brightness and gamma of each image by its own random amount.

    Args:
        x: Images (B, C, H, W) in [0, 1].
        gain: Largest relative change of brightness.
        gamma: Largest relative change of gamma.

    Returns:
        Images of the same shape in [0, 1].
    """
    u = torch.rand(2, x.shape[0], 1, 1, 1) * 2 - 1
    return ((x.clamp(min=0) + 1e-4) ** (1 + gamma * u[0]) * (1 + gain * u[1])).clamp(0, 1)


def cosine(step: int, steps: int, warmup: int = 100) -> float:
    """Learning-rate factor: linear warm-up, then a half cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + float(np.cos(np.pi * (step - warmup) / max(1, steps - warmup))))


class Log:
    """One JSON line for each report, to the screen and to ``training.jsonl``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.start = folder / "training.jsonl", time.time()

    def __call__(self, **values: float) -> None:
        """Write one report."""
        row = {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}
        line = json.dumps({**row, "seconds": round(time.time() - self.start)})
        print(line, flush=True)
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(line + "\n")
