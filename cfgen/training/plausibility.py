"""Measure what real images look like to LPIPS; write CKPT/plausibility and name it in config.json.

Train slices are the reference and calibrate too, each compared with other patients alone, and so
do val slices: patients differ more than slices do, and train has most of them. That is fair while
the pair remakes what it has learned from no better than new slices; round trips of both are
printed. The card comes first: this script needs config.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cfgen.checkpoints import WEIGHTS, load_checkpoint
from cfgen.plausibility import LPIPS, Reference
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

    def look(x: Tensor) -> tuple[Tensor, Tensor]:
        parts = [
            measure(lpips, pair, b.float() / 255, args.width, args.seed) for b in x.split(BATCH)
        ]
        trips, sketches = (torch.cat(part) for part in zip(*parts, strict=True))
        return trips, sketches

    trips, sketches = look(images[rows])
    whose = np.array(patients)[rows.numpy()]
    reference = Reference.fit(sketches, trips, whose.tolist(), size, args.seed)
    apart = torch.from_numpy(whose[:, None] != whose)
    scores, named = [reference.score(trips, sketches, apart)], [labels[rows]]

    images, labels, patients = load_split(args.data, "val")
    both = sorted(set(patients) & set(whose))
    if both:
        raise ValueError(f"expected val patients apart from train, got {len(both)} in both")
    new_trips, new_sketches = look(images)
    scores.append(reference.score(new_trips, new_sketches))
    named.append(labels)
    for name, t in (("train", trips), ("val", new_trips)):
        print(f"log round trip, {name}: {float(t.log().mean()):.3f} +- {float(t.log().std()):.3f}")
    score, label = torch.cat(scores), torch.cat(named)
    calibration = {
        name: score[label == k].sort().values
        for k, name in enumerate(CLASSES)
        if bool((label == k).any())
    }
    folder = config["generator"]["folder"]
    used = {
        f: h
        for f, h in checkpoint.hashes.items()
        if f.startswith(f"{folder}/") and f.endswith(WEIGHTS)
    }
    reference.save(args.checkpoint / "plausibility", calibration, used)
    config.pop("calibration", None)
    file.write_text(json.dumps(config | {"plausibility": "plausibility"}, indent=2) + "\n")


if __name__ == "__main__":
    main()
