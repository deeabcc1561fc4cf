"""A medical file explained and exported by known models: E and G the identity, f linear."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from worlds import TwoLogits

from cfgen.criterion import Flip
from cfgen.data import Item, read_picture
from cfgen.data.export import Export
from cfgen.data.identity import Identity
from cfgen.directions import Gradient
from cfgen.explain import explain
from cfgen.generators import Identity as Same
from cfgen.problem import Problem
from cfgen.result import Counterfactual

SIDE = 16


class Exported(NamedTuple):
    """What Export said of an item, the file, and the counterfactual with its problem."""

    said: dict[str, Any]
    path: Path
    cf: Counterfactual


def exported(
    item: Item,
    *,
    weights: tuple[float, ...] = (1.0,),
    rise: float = 0.05,
    case: str = "case",
    keep_ids: bool = False,
    keep_aspect: bool = True,
    secret: str = "s",
) -> Exported:
    """Explain an item by the mean of its channels, weighted, and export the counterfactual.

    Args:
        item: What to explain, at SIDE x SIDE.
        weights: One for each channel of the pair.
        rise: How far above the image's own the weighted mean has to come.
        case: Folder beside the file that is written to.
        keep_ids: Keep the patient's data.
        keep_aspect: How it is read.
        secret: Of the new UIDs.
    """
    size, channels = (SIDE, SIDE), len(weights)
    x = read_picture(item, channels=channels, size=size, keep_aspect=keep_aspect).x
    x = (x.double() * 255).round()[None] / 255
    w = torch.tensor(weights, dtype=torch.float64)[:, None, None] / SIDE**2
    goal = (x * w).sum() + rise
    model = TwoLogits(lambda x: 40 * ((x * w).sum((1, 2, 3)) - goal))
    problem = Problem(Same(), model, Flip(torch.tensor([1])), x)
    cf = explain(problem, Gradient())[0]
    assert bool(cf.flipped)
    folder = item.path.parent / case
    folder.mkdir(exist_ok=True)
    export = Export("tiny", Identity(secret, keep_ids), keep_aspect)
    row = {"source": "dark", "target": "bright", "direction": "gradient"}
    said = export(item, cf, row, folder)
    return Exported(said, folder / f"x_cf.{'dcm' if item.kind == 'dicom' else 'nii.gz'}", cf)
