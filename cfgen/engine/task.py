"""What a batch of images is asked: the target, the direction, and what must stay as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from cfgen.checkpoints import Checkpoint
from cfgen.classifiers.adapter import Classifier
from cfgen.classifiers.committee import decision
from cfgen.criterion import Among, Criterion, Flip, Hold
from cfgen.directions import DIRECTIONS, PRIOR_GUIDED, Confined, Direction
from cfgen.engine.constraints import Findings, level, region_of
from cfgen.engine.settings import Settings
from cfgen.explain import likely_other
from cfgen.priors import Prior
from cfgen.problem import LEVELS, Problem, in_blocks

Autocast = Callable[[], AbstractContextManager]


class Task:
    """The settings of a run with the models of a checkpoint.

    Args:
        checkpoint: The models.
        settings: What the user chose.

    Attributes:
        classifier: The classifier, or its two-class view of the finding that is explained.
        target: Index of the class asked for, None for the most likely other one.
        directions: One for each of the ``diverse`` counterfactuals.

    Raises:
        ValueError: The settings do not fit the models.
    """

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        self.checkpoint, self.settings = checkpoint, settings
        f, target = checkpoint.classifier, settings.target
        if f.head == "multilabel":
            if target is None:
                names = ", ".join(f.classes)
                raise ValueError(f"expected a target, '{{name}}' or 'no {{name}}', of {names}")
            f = f.finding(target.removeprefix("no "))
        self.classifier: Classifier = f
        self.target = None if target is None else f.index(target)
        self.held = self.find_held()
        self.directions = [self.make_direction(i) for i in range(settings.diverse)]

    def find_held(self) -> tuple[int, ...]:
        """The columns of what must not move, in the outputs of :class:`Findings`.

        Raises:
            ValueError: The classifier is not multi-label, has no such finding, or is to move it.
        """
        f, names = self.checkpoint.classifier, self.settings.hold
        if not names:
            return ()
        if f.head != "multilabel":
            raise ValueError(f"expected a multilabel classifier to hold findings, got {f.head}")
        moved = self.classifier.classes[1]
        if moved in names:
            raise ValueError(f"expected findings other than the target to hold, got '{moved}'")
        return tuple(2 + f.index(name) for name in names)

    def make_direction(self, number: int) -> Direction:
        """The direction of one of several counterfactuals; with a prior each has its own seed."""
        name = self.settings.direction
        make: Any = DIRECTIONS[name]
        if name in PRIOR_GUIDED:
            direction = make(self.prior(), self.settings.seed + number)
        else:
            direction = make()
        # What is held does not move, to first order.
        return Confined(direction, level(self.held)) if self.held else direction

    def prior(self) -> Prior:
        """The checkpoint's prior.

        Raises:
            ValueError: There is none, or it knows other classes.
        """
        name, prior = self.settings.direction, self.checkpoint.prior
        if prior is None:
            raise ValueError(
                f"expected a checkpoint with a prior for '{name}', got '{self.checkpoint.name}'"
            )
        if prior.classes != self.classifier.classes:
            known, asked = (", ".join(m.classes) for m in (prior, self.classifier))
            raise ValueError(f"expected a prior of the classes {asked} for '{name}', got {known}")
        return prior

    def problem(self, x: Tensor, masks: Sequence[Tensor | None], autocast: Autocast) -> Problem:
        """The problem of images (B, C, H, W) and their lesion masks (H, W) of bool."""
        f: Callable[[Tensor], Tensor] = self.classifier
        with torch.no_grad():
            grid = (x * LEVELS).round() / LEVELS
            target = likely_other(f(grid))
        if self.target is not None:
            target = torch.full_like(target, self.target)
        flip = Flip(target, confidence=self.settings.confidence)
        criterion: Criterion = flip
        whole = self.checkpoint.classifier
        if self.settings.direction not in PRIOR_GUIDED:  # which are to convince every member
            f, criterion = decision(self.classifier, flip)
        if self.held:
            f = Findings(whole, whole.index(self.classifier.classes[1]))
            with torch.no_grad():
                before = in_blocks(f, grid)
            criterion = Among(criterion, 2) & Hold(before, self.held)
        return Problem(
            self.checkpoint.generator,
            f,
            criterion,
            x,
            detail=self.settings.detail,
            region=self.region(masks, x),
            autocast=autocast,
        )

    def region(self, masks: Sequence[Tensor | None], x: Tensor) -> Tensor | None:
        """Where images x (B, C, H, W) may change (B, 1, H, W): nowhere without a mask."""
        where, margin = self.settings.region, self.settings.region_margin
        if where is None:
            return None
        nowhere = torch.zeros(1, *x.shape[2:])
        regions = [
            nowhere if mask is None or not bool(mask.any()) else region_of(mask, where, margin)
            for mask in masks
        ]
        return torch.stack(regions).to(x)
