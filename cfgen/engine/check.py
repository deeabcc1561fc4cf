"""What may be wrong with the models of a run, looked at before it begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from cfgen.checkpoints import Checkpoint
from cfgen.classifiers import check_classifier
from cfgen.data import Item, Picture

LOOKED_AT = 4
"""Images by which the models are looked at."""


def check(
    checkpoint: Checkpoint,
    items: Sequence[Item],
    load: Callable[[Item], Picture],
    device: torch.device,
) -> list[str]:
    """Look at f and the oracle with the first images that can be read.

    Args:
        checkpoint: The models.
        items: The images of the run.
        load: Reads one.
        device: Where the models are.

    Returns:
        Lines that warn the user; none where all is well.

    Raises:
        ValueError: The flips of f would be wrong: see :func:`check_classifier`.
    """
    found: list[Tensor] = []
    for item in items[:LOOKED_AT]:
        with suppress(Exception):  # becomes the row of its image
            found.append(load(item).x)
    if not found:
        return []
    x = torch.stack(found).to(device)
    lines = [f"classifier: {line}" for line in check_classifier(checkpoint.classifier, x)]
    if checkpoint.oracle is not None:
        try:
            told = check_classifier(checkpoint.oracle, x)
        except ValueError as error:
            told = [str(error)]
        lines += [f"oracle: {line}" for line in told]
    return lines
