"""A classifier of several: it is as sure as the least sure of its members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from cfgen.classifiers.adapter import Classifier
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
        return self.with_mean(x)[:, 0]

    def with_mean(self, x: Tensor) -> Tensor:
        """The committee's log-odds and the mean of its members', which have one sign (B, 2).

        Where all agree so does their mean, and where they do not, a share of the mean is all that
        is left. The mean is smooth: the committee's log-odds have a kink where another member
        becomes the most hesitant, and are flatter where members disagree.
        """
        logits = torch.stack([member(x) for member in self.members])
        odds = logits[..., 1] - logits[..., 0]
        weakest = odds.amin(0).clamp(min=0) + odds.amax(0).clamp(max=0)
        mean = odds.mean(0)
        return torch.stack([torch.lerp(weakest, mean, self.share), mean], 1)


def decision(f: nn.Module, flip: Flip) -> tuple[Callable[[Tensor], Tensor], Criterion]:
    """Classifier and criterion of the same flip, with a smoother margin where f is a committee.

    For a flip only the class counts that f says, and what a committee says is what the mean of its
    members says: the boundary is one, and along the mean it is found by fewer gradients.

    Args:
        f: A classifier.
        flip: What is asked of its logits.

    Returns:
        What a :class:`~cfgen.problem.Problem` takes in the place of f and flip. For a committee:
        images to its logits and those of the mean (B, 4), and the flip of the latter; logits and
        probabilities of the result remain those of f. Else, and where more is asked than the flip,
        f and flip themselves.
    """
    if flip.offset or not isinstance(getattr(f, "model", None), Committee):
        return f, flip
    return partial(f, with_mean=True), Among(flip, size=2, first=2)
