"""A classifier of several: it is as sure as the least sure of its members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from cfgen.classifier import Classifier
from cfgen.criterion import Among, Criterion, Flip


class Committee(nn.Module):
    """The log-odds of the most hesitant member where all agree, 0 where they do not.

    Members that learned in different ways are fooled in different ways: a change that turns the
    most hesitant one has turned all. A share of the mean keeps a gradient where they disagree: with
    weakest w and mean m the log-odds are (1 - share) w + share m.

    Args:
        members: Classifiers of the same two classes.
        share: Share of the mean, in (0, 1].

    Raises:
        ValueError: Fewer than two members, or classes that are not the same two for all.

    Reference: Tramer et al., Ensemble Adversarial Training: Attacks and Defenses, 2018,
    arXiv:1705.07204, for what several models share and one alone does not.
    """

    def __init__(self, members: Sequence[Classifier], share: float = 0.2) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"expected a share in (0, 1], got {share}")
        if len(members) < 2:
            raise ValueError(f"expected two members or more, got {len(members)}")
        for member in members:
            if len(member.classes) != 2 or member.classes != members[0].classes:
                got = " and ".join(", ".join(m.classes) for m in members)
                raise ValueError(f"expected members with the same two classes, got {got}")
        self.members = nn.ModuleList(members)
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Log-odds (B,) of the second class for images (B, C, H, W) in [0, 1]."""
        return self.with_decision(x)[:, 0]

    def with_decision(self, x: Tensor) -> Tensor:
        """These log-odds and the mean of the members' (B, 2), which has the same sign.

        Where all agree so does their mean, and where they do not a share of it is all that is left.
        But it has no kinks where another member hesitates most, and is not flat between them.
        """
        logits = torch.stack([member(x) for member in self.members])
        odds = logits[..., 1] - logits[..., 0]
        weakest = odds.amin(0).clamp(min=0) + odds.amax(0).clamp(max=0)
        mean = odds.mean(0)
        return torch.stack([torch.lerp(weakest, mean, self.share), mean], 1)


def decision(f: nn.Module, target: Tensor) -> tuple[Callable[[Tensor], Tensor], Criterion]:
    """What flips f to a class, by the smoothest margin with the same sign.

    For the smallest step only the class counts that f says. A committee says that of the mean of
    its members, of which the boundary is the same, and the way there shorter to search. What is
    returned stands in a :class:`~cfgen.problem.Problem` for f and ``Flip(target)``; probabilities
    remain those of f.

    Args:
        f: A classifier.
        target: Class index of each sample (B,), int64.
    """
    if not isinstance(getattr(f, "model", None), Committee):
        return f, Flip(target)
    return partial(f, decision=True), Among(Flip(target), size=2, first=2)
