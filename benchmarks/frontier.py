"""Smallest against believable on real slices: every direction, judged by models it never saw.

    pip install -e ".[bench]" && pip install --no-deps latentshift
    python benchmarks/frontier.py --images ../shared/data/lgg-flair-128

Slices that f and the oracle classify rightly, details kept. The oracle says whether a second model
shares the flip, a segmenter how much lesion is left, the lesion mask where the image changed; the
attribution maps of captum and latentshift's heatmap on the same slices stand beside. Writes
benchmarks/results/frontier.json and prints its tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from ace import ACE
from contract import SEED, about
from fastdime import FastDiME
from latent_shift import INSTALL, heatmaps
from render import table
from runs import Counter
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from cfgen import Flip, Problem, explain, load_checkpoint
from cfgen.checkpoints import Checkpoint, find, hashes_of
from cfgen.directions import DIRECTIONS, PRIOR_GUIDED
from cfgen.explain import likely_other
from cfgen.plausibility import LPIPS, Plausibility
from cfgen.training.card import interval
from cfgen.training.common import load_masks, load_split
from cfgen.training.segmenter import Segmenter, dice, predict

BATCH = 32
PEERS = {"FastDiME": FastDiME, "ACE": ACE}
BRAIN = 10 / 255  # darker pixels are background
PAIRS = (
    ("natural_gradient", "gradient"),
    ("minimal_norm", "gradient"),
    ("guided", "FastDiME"),
    ("guided", "ACE"),
)
"""Directions that are compared on the slices that both flip, for means over their own flips are
means over other slices."""


def locality(maps: Tensor, x: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel AUROC and average precision in the brain of maps (B, 1, H, W) against masks, each (B,).

    nan where the mask is empty.
    """
    scores = torch.full((2, len(maps)), torch.nan, dtype=torch.float64)
    for i, (m, image, mask) in enumerate(zip(maps, x, masks, strict=True)):
        brain = image > BRAIN
        truth, score = mask[brain].numpy(), m[brain].numpy()
        if 0 < truth.sum() < len(truth):
            found = roc_auc_score(truth, score), average_precision_score(truth, score)
            scores[:, i] = torch.tensor(found)
    return scores[0], scores[1]


def mean(of: Tensor) -> float:
    """The mean of the numbers (n,) that are there, nan of none."""
    return round(float(of.nanmean()), 4)


def share(of: Tensor) -> float:
    """The mean of booleans (n,), nan of none."""
    return round(float(of.float().mean()), 4)


def frontier(
    name: str,
    confidence: float,
    checkpoint: Checkpoint,
    lpips: LPIPS,
    segmenter: Segmenter,
    x: Tensor,
    masks: Tensor,
    prior: Counter,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """One row: a direction on images x (N, 1, H, W) with lesion masks (N, 1, H, W) bool.

    Beside it LPIPS, l1 of 255, AUROC and AP of each slice (N,), nan where it does not flip; the
    last two where it has no lesion, too.
    """
    make: Any = (DIRECTIONS | PEERS)[name]
    direction = make(checkpoint.prior) if name in (*PRIOR_GUIDED, *PEERS) else make()
    pair, f, oracle = checkpoint.generator, checkpoint.classifier, checkpoint.oracle
    assert oracle is not None
    plausibility = Plausibility(lpips, pair, checkpoint.calibration, checkpoint.reference)
    start, parts = time.perf_counter(), []
    before = prior.forward, prior.backward
    for batch in x.split(BATCH):
        criterion = Flip(likely_other(f(batch)), confidence=confidence)
        parts.append(explain(Problem(pair, f, criterion, batch), direction))
    seconds = time.perf_counter() - start
    x_cf, lam, target, flipped = (
        torch.cat([getattr(p, k) for p in parts]) for k in ("x_cf", "lam", "target", "flipped")
    )
    forward, backward = (
        torch.cat([getattr(p.passes, k) for p in parts]).float() for k in ("forward", "backward")
    )
    agrees, distance, p_value, lesion = [], [], [], []
    for a, b, t in zip(x.split(BATCH), x_cf.split(BATCH), target.split(BATCH), strict=True):
        agrees.append(oracle(b).argmax(1) == t)
        distance.append(lpips(a, b))
        p_value.append(plausibility(b, [f.classes[k] for k in t.tolist()]))
        lesion.append(segmenter(b) > 0.5)
    agree, far, p, left = (torch.cat(v) for v in (agrees, distance, p_value, lesion))
    ill = masks.flatten(1).any(1) & flipped
    auroc, precision = locality((x_cf - x).abs(), x, masks)
    remaining = (left & masks)[ill].sum() / masks[ill].sum()
    healthy, tumour = (flipped & (target == f.index(c)) for c in ("healthy", "tumour"))
    changed = 255 * (x_cf - x).abs().flatten(1).mean(1)
    each = {"LPIPS": far, "l1 of 255": changed, "AUROC": auroc, "AP": precision}
    each = {k: v.where(flipped, torch.nan) for k, v in each.items()}
    drawn = (prior.forward - before[0]) / len(x), (prior.backward - before[1]) / len(x)
    row = {
        "direction": name,
        "confidence": confidence,
        "slices": len(x),
        "flipped": share(flipped),
        "oracle agrees": share(agree[flipped]),
        "to healthy": share(agree[healthy]),
        "to tumour": share(agree[tumour]),
        "AUROC": mean(each["AUROC"]),
        "AP": mean(each["AP"]),
        "lesion left": round(float(remaining), 4),
        "lam": round(float(lam[flipped].median()), 3),
        "LPIPS": mean(each["LPIPS"]),
        "l1 of 255": mean(each["l1 of 255"]),
        "plausible (p >= 0.05)": share(p[flipped] >= 0.05),
        "forward": float(forward.median()),
        "backward": float(backward.median()),
        "prior forward": round(drawn[0], 1),
        "prior backward": round(drawn[1], 1),
        "seconds an image": round(seconds / len(x), 3),
    }
    return row, each


def pairs(
    each: dict[str, dict[str, Tensor]], confidence: float, patients: list[str]
) -> list[dict[str, Any]]:
    """Rows of two directions on the slices that both flip: means of both and of the difference.

    Args:
        each: Of each direction what each slice has (N,), nan where it does not flip.
        confidence: Of all of them.
        patients: Whose slice each is (N), for the interval of the difference.
    """
    rows = []
    for one, other in PAIRS:
        if one in each and other in each:
            row: dict[str, Any] = {"confidence": confidence, "direction": one, "against": other}
            for key in each[one]:
                values = torch.stack([each[one][key], each[other][key]]).double()
                both = values.isfinite().all(0)
                mine, its = values[:, both]
                row.setdefault("both flip", len(mine))
                row[key], row[f"its {key}"] = mean(mine), mean(its)
                row[f"less {key}"] = share(mine < its)
                gap, whose = mine - its, [p for p, b in zip(patients, both, strict=True) if b]
                if whose:
                    row[f"{key} - its"] = interval(lambda i, gap=gap: float(gap[i].mean()), whose)
            rows.append(row)
    return rows


def attributions(checkpoint: Checkpoint, x: Tensor, masks: Tensor) -> list[dict[str, Any]]:
    """Rows of maps for the class tumour on images with a lesion.

    Grad-CAM looks at the last stage of f, of its first member where f is a committee.
    """
    from captum.attr import (
        IntegratedGradients,
        LayerAttribution,
        LayerGradCam,
        Occlusion,
        Saliency,
    )

    f = checkpoint.classifier
    k = f.index("tumour")
    layer = next(m for name, m in f.named_modules() if name.endswith("layer3"))
    cam: Any = LayerGradCam(f, layer)
    methods: dict[str, Any] = {
        "integrated gradients": lambda b: IntegratedGradients(f).attribute(b, target=k, n_steps=32),
        "saliency": lambda b: Saliency(f).attribute(b, target=k),
        "occlusion 16": lambda b: Occlusion(f).attribute(
            b, target=k, sliding_window_shapes=(1, 16, 16), strides=(1, 8, 8)
        ),
        "Grad-CAM": lambda b: LayerAttribution.interpolate(
            cam.attribute(b, target=k, relu_attributions=True),
            (b.shape[-2], b.shape[-1]),
            "bilinear",
        ),
        "latentshift": lambda b: heatmaps(checkpoint.generator, f, b, k),
        "intensity": lambda b: b,
    }
    rows = []
    with torch.enable_grad():
        for name, method in methods.items():
            try:
                maps = torch.cat(
                    [method(b.clone().requires_grad_()).detach().abs() for b in x.split(BATCH)]
                )
            except ImportError:  # a peer that is not there
                rows.append({"map": name, "AUROC": f"`{INSTALL}`"})
                continue
            auroc, precision = locality(maps, x, masks)
            rows.append({"map": name, "AUROC": mean(auroc), "AP": mean(precision)})
    return rows


@torch.no_grad()
def main() -> None:
    """Command line of this script."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--images", type=Path, required=True, help="folder with labels.csv and masks")
    p.add_argument("--split", default="test", help="val to choose a method, test to report it")
    p.add_argument("--limit", type=int, help="only N slices, drawn with seed 0")
    p.add_argument("--directions", nargs="+", default=[*DIRECTIONS, *PEERS])
    p.add_argument("--confidence", nargs="+", type=float, default=[0.5, 0.9])
    p.add_argument("--checkpoint", default="brain-flair")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "frontier.json")
    args = p.parse_args()
    checkpoint = load_checkpoint(args.checkpoint)
    folder = find(args.checkpoint).resolve()
    judge = folder.with_name(f"{folder.name}-judges") / "segmenter"
    segmenter = Segmenter.load(judge)
    lpips = LPIPS("st-alex")
    images, labels, patients = load_split(args.images, args.split)
    masks = load_masks(args.images, args.split) > 0
    oracle = checkpoint.oracle
    if oracle is None:
        raise ValueError(f"expected a checkpoint with an oracle, got '{args.checkpoint}'")
    right = torch.cat(
        [
            (checkpoint.classifier(b).argmax(1) == y) & (oracle(b).argmax(1) == y)
            for b, y in zip((images.float() / 255).split(BATCH), labels.split(BATCH), strict=True)
        ]
    )
    rows = right.nonzero()[:, 0]
    if args.limit:
        generator = torch.Generator().manual_seed(SEED)
        rows = rows[torch.randperm(len(rows), generator=generator)[: args.limit]]
    x, m, whose = images[rows].float() / 255, masks[rows], [patients[i] for i in rows.tolist()]
    unet: Any = checkpoint.prior.unet if checkpoint.prior else nn.Identity()
    prior = Counter(unet)
    ill = m.flatten(1).any(1)
    found = (predict(segmenter, images) > 0.5).float()
    record = about("captum", "latentshift", "scikit-learn") | {
        "split": args.split,
        "slices": len(images),
        "rightly classified by both": int(right.sum()),
        "used": len(x),
        "checkpoint": checkpoint.hashes,
        "segmenter": hashes_of(judge),
        "segmenter Dice": round(float(dice(found, masks.float())), 4),
        "attributions": attributions(checkpoint, x[ill], m[ill]) if ill.any() else [],
        "directions": [],
        "pairs": [],
    }
    print(table(record["attributions"]), flush=True)
    for confidence in args.confidence:
        each = {}
        for name in args.directions:
            row, each[name] = frontier(name, confidence, checkpoint, lpips, segmenter, x, m, prior)
            record["directions"].append(row)
            print(json.dumps(row), flush=True)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(record, indent=2) + "\n")
        record["pairs"] += pairs(each, confidence, whose)
        args.out.write_text(json.dumps(record, indent=2) + "\n")
    print(table(record["directions"]))
    print(table(record["pairs"]))


if __name__ == "__main__":
    main()
