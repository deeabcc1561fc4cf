"""Measure what real images look like to LPIPS; write CKPT/plausibility and name it in config.json.

Train slices are the reference, val slices of other patients calibrate. The card comes first: this
script needs config.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from cfgen.checkpoints import load_checkpoint
from cfgen.plausibility import LPIPS, Plausibility, Reference
from cfgen.plausibility.conformal import measure
from cfgen.plausibility.sketch import WIDTH
from cfgen.training.classifier import CLASSES
from cfgen.training.common import load_split

BATCH = 16


def spread(labels: Tensor, most: int) -> Tensor:
    """Rows of at most ``most`` images of each class, evenly spaced in the order of the images."""
    rows = []
    for k in labels.unique():
        (own,) = (labels == k).nonzero(as_tuple=True)
        rows.append(own[torch.linspace(0, len(own) - 1, min(most, len(own))).round().long()])
    return torch.cat(rows).sort().values


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    """Command line of this script."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--data", type=Path, required=True, help="folder with labels.csv")
    p.add_argument("--checkpoint", type=Path, required=True, help="folder to complete")
    p.add_argument("--most", type=int, default=512, help="reference images of a class")
    p.add_argument("--width", type=int, default=WIDTH, help="numbers in a sketch")
    p.add_argument("--seed", type=int, default=0, help="of the random projection")
    args = p.parse_args(arguments)
    file = args.checkpoint / "config.json"
    config = json.loads(file.read_text())
    # What is there may have been measured with other weights, and would not load.
    config.pop("plausibility", None)
    file.write_text(json.dumps(config, indent=2) + "\n")
    checkpoint = load_checkpoint(str(args.checkpoint))
    pair, lpips, size = checkpoint.generator, LPIPS("st-alex"), checkpoint.size

    images, labels, patients = load_split(args.data, "train")
    rows = spread(labels, args.most)
    parts = [
        measure(lpips, pair, b.float() / 255, args.width, args.seed)
        for b in images[rows].split(BATCH)
    ]
    trips, sketches = (torch.cat(part) for part in zip(*parts, strict=True))
    whose = [patients[i] for i in rows.tolist()]
    reference = Reference.fit(sketches, trips, whose, size, args.seed)

    images, labels, patients = load_split(args.data, "val")
    both = sorted(set(patients) & set(whose))
    if both:
        raise ValueError(f"expected val patients apart from train, got {len(both)} in both")
    # A score needs the names of the classes only; what it is compared with comes now.
    score = Plausibility(lpips, pair, dict.fromkeys(CLASSES, torch.zeros(1)), reference).score
    names = [CLASSES[k] for k in labels.tolist()]
    scores = torch.cat(
        [
            score(images[i : i + BATCH].float() / 255, names[i : i + BATCH])
            for i in range(0, len(images), BATCH)
        ]
    )
    calibration = {
        name: scores[labels == k].sort().values for k, name in enumerate(CLASSES) if name in names
    }
    folder = config["generator"]["folder"]
    used = {f: h for f, h in checkpoint.hashes.items() if f.startswith(f"{folder}/")}
    reference.save(args.checkpoint / "plausibility", calibration, used)
    config.pop("calibration", None)
    file.write_text(json.dumps(config | {"plausibility": "plausibility"}, indent=2) + "\n")


if __name__ == "__main__":
    main()
