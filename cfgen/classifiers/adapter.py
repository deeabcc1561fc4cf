"""Classifiers brought to one convention: images in [0, 1] to one logit a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Head = Literal["softmax", "sigmoid", "multilabel"]
_HEADS = ("softmax", "sigmoid", "multilabel")


class Classifier(nn.Module):
    """f: images in [0, 1] to logits, with resizing, normalisation and temperature inside.

    The module is frozen and stays in eval mode; it is differentiable in the image.

    Args:
        model: maps normalised images to logits (B, K), or (B,) or (B, 1) for head ``sigmoid``.
        classes: K distinct names, in the order of the logits.
        mean: subtracted from the images; one number, or one a channel.
        std: divides them after that.
        channels: channels that the model wants; grey images are repeated to them.
        size: side or (height, width) that the model wants; images are resized bilinearly.
        temperature: divides the logits.
        head: ``softmax``: exclusive classes. ``sigmoid``: one logit l for the second of two
            classes, handed out as (0, l). ``multilabel``: K findings that exclude nothing; see
            ``finding``.

    Raises:
        ValueError: names, numbers or head that do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        *,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        channels: int | None = None,
        size: int | Sequence[int] | None = None,
        temperature: float = 1.0,
        head: Head = "softmax",
    ) -> None:
        """Check the settings and freeze the model."""
        super().__init__()
        self.classes = tuple(classes)
        if head not in _HEADS:
            raise ValueError(f"expected a head of {', '.join(_HEADS)}, got {head!r}")
        fewest = 1 if head == "multilabel" else 2
        if len(set(self.classes)) < max(fewest, len(self.classes)):
            raise ValueError(f"expected {fewest} or more distinct classes, got {list(classes)}")
        if head == "sigmoid" and len(self.classes) != 2:
            raise ValueError(f"expected two classes for head sigmoid, got {list(classes)}")
        if not temperature > 0:
            raise ValueError(f"expected a temperature above 0, got {temperature}")
        for name, value in (("mean", mean), ("std", std)):
            numbers = torch.tensor(value, dtype=torch.float32).reshape(1, -1, 1, 1)
            if numbers.shape[1] not in (1, channels or numbers.shape[1]):
                raise ValueError(f"expected {name} of 1 or {channels} numbers, got {value}")
            self.register_buffer(name, numbers)
        if not bool((self.std > 0).all()):
            raise ValueError(f"expected std above 0, got {std}")
        for name, value in (("mean", mean), ("std", std), ("temperature", temperature)):
            if not bool(torch.tensor(value).isfinite().all()):
                raise ValueError(f"expected a finite {name}, got {value}")
        self.model = model
        self.channels = channels
        self.size = (size, size) if isinstance(size, int) else size and tuple(size)
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"expected a size of one or two numbers from 1 on, got {size}")
        self.temperature = temperature
        self.head = head
        # What classifier_files writes (it fills in the architecture), and the file that it copies.
        self.config: dict[str, Any] = {
            "classes": list(self.classes),
            "mean": mean,
            "std": std,
            "channels": channels,
            "size": self.size,
            "temperature": temperature,
            "head": head,
        }
        self.file: Path | None = None
        self.train(False).requires_grad_(False)

    def train(self, mode: bool = True) -> Classifier:
        """Stay in eval mode: dropout and batch statistics would make f another function."""
        return super().train(False)

    def forward(self, x: Tensor, with_mean: bool = False) -> Tensor:
        """Return the logits (B, K) of images (B, C, H, W) in [0, 1].

        Args:
            x: images.
            with_mean: of a committee, (0, l) and after it the same of its members' mean (B, 4).

        Raises:
            ValueError: a number of channels or of logits that does not fit, or images of integers.
        """
        if x.ndim != 4 or x.shape[1] not in (1, self.channels or x.shape[1]):
            counts = f" with C in {sorted({1, self.channels})}" if self.channels else ""
            raise ValueError(f"expected images of shape (B, C, H, W){counts}, got {tuple(x.shape)}")
        if not x.is_floating_point():
            kind = str(x.dtype).removeprefix("torch.")
            raise ValueError(f"expected images of floating point in [0, 1], got {kind}")
        x = x.to(self.mean.dtype)
        if self.size is not None:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True)
        if self.channels is not None:
            x = x.expand(-1, self.channels, -1, -1)
        x = (x - self.mean) / self.std
        if with_mean:
            odds = self.model.with_mean(x) / self.temperature  # type: ignore[operator]
            return F.pad(odds[..., None], (1, 0)).flatten(1)
        logits = self.model(x) / self.temperature
        if self.head == "sigmoid" and logits.ndim == 1:
            logits = logits[:, None]
        expected = (len(x), 1 if self.head == "sigmoid" else len(self.classes))
        if logits.shape != expected:
            raise ValueError(
                f"expected logits of shape {expected} for head {self.head} and classes "
                f"{', '.join(self.classes)}, got {tuple(logits.shape)}"
            )
        return F.pad(logits, (1, 0)) if self.head == "sigmoid" else logits

    def probabilities(self, x: Tensor) -> Tensor:
        """Return the probabilities (B, K) of images (B, C, H, W) in [0, 1]."""
        return self.probabilities_from(self(x))

    def probabilities_from(self, logits: Tensor) -> Tensor:
        """Return the softmax of logits (B, K), or of each its sigmoid for head ``multilabel``."""
        return logits.sigmoid() if self.head == "multilabel" else logits.softmax(1)

    def index(self, name: str) -> int:
        """Return the index of a class.

        Raises:
            ValueError: there is no such class.
        """
        if name not in self.classes:
            raise ValueError(f"expected a class of {', '.join(self.classes)}, got {name!r}")
        return self.classes.index(name)

    def finding(self, name: str) -> Classifier:
        """Return the two-class view ("no NAME", "NAME") of one finding of a multilabel classifier.

        Raises:
            ValueError: the head is another, or there is no such finding.
        """
        if self.head != "multilabel":
            raise ValueError(f"expected head multilabel to look at a finding, got {self.head}")
        return Classifier(_Column(self, self.index(name)), (f"no {name}", name), head="sigmoid")


class _Column(nn.Module):
    """One logit of a model."""

    def __init__(self, model: nn.Module, index: int) -> None:
        super().__init__()
        self.model = model
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[:, self.index]
