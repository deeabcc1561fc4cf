"""Classifiers brought to one convention: images in [0, 1] to one logit a class."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Head = Literal["softmax", "sigmoid", "multilabel"]
_HEADS = ("softmax", "sigmoid", "multilabel")
_WEIGHTS = "model.safetensors"


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
        self.model = model
        self.channels = channels
        self.size = (size, size) if isinstance(size, int) else size and tuple(size)
        self.temperature = temperature
        self.head = head
        # What save_classifier writes, and the file it copies; loaders fill in the architecture.
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

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of images (B, C, H, W) in [0, 1].

        Raises:
            ValueError: a number of channels or of logits that does not fit.
        """
        if x.ndim != 4 or x.shape[1] not in (1, self.channels or x.shape[1]):
            counts = f" with C in {sorted({1, self.channels})}" if self.channels else ""
            raise ValueError(f"expected images of shape (B, C, H, W){counts}, got {tuple(x.shape)}")
        if self.size is not None:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True)
        if self.channels is not None:
            x = x.expand(-1, self.channels, -1, -1)
        logits = self.model((x - self.mean) / self.std) / self.temperature
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


class _Exported(nn.Module):
    """An exported program; its mode was fixed at export, and its module refuses a call to eval."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> _Exported:
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.program(x)


def from_timm(
    name: str,
    weights: str | Path,
    classes: Sequence[str],
    *,
    arguments: dict[str, Any] | None = None,
    **settings: Any,
) -> Classifier:
    """Build a model of timm with weights from a file; never from the network.

    Args:
        name: the architecture, as in ``timm.list_models()``.
        weights: a .safetensors file, or a .pt or .pth file that holds nothing but tensors.
        classes: names of the classes.
        arguments: of ``timm.create_model``; by default as many logits and channels as asked for.
        **settings: of the Classifier.

    Raises:
        ValueError: unknown architecture or kind of file.
        FileNotFoundError: no such file.
    """
    import timm
    from timm.models import load_state_dict

    if not timm.is_model(name):
        raise ValueError(f"expected an architecture of timm, got {name!r}")
    weights = existing(Path(weights), ".safetensors", ".pt", ".pth")
    arguments = {
        "in_chans": settings.get("channels") or 3,
        "num_classes": 1 if settings.get("head") == "sigmoid" else len(classes),
        **(arguments or {}),
    }
    model = timm.create_model(name, pretrained=False, **arguments)
    model.load_state_dict(load_state_dict(str(weights), weights_only=True))
    classifier = Classifier(model, classes, **{"channels": arguments["in_chans"]} | settings)
    classifier.config |= {"architecture": f"timm:{name}", "arguments": arguments}
    return classifier


def from_torchscript(file: str | Path, classes: Sequence[str], **settings: Any) -> Classifier:
    """Load a TorchScript file (.pt or .pth); settings are those of the Classifier."""
    file = existing(Path(file), ".pt", ".pth")
    with warnings.catch_warnings():
        # Files that exist are still to be explained, whatever replaces TorchScript.
        warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated")
        model = torch.jit.load(str(file), map_location="cpu")
    return _from_file("torchscript", model, file, classes, settings)


def from_export(file: str | Path, classes: Sequence[str], **settings: Any) -> Classifier:
    """Load a program of torch.export (.pt2); settings are those of the Classifier.

    The program must have been exported in eval mode and with a dynamic batch dimension.
    """
    file = existing(Path(file), ".pt2")
    model = _Exported(torch.export.load(file).module())
    return _from_file("export", model, file, classes, settings)


def _from_file(
    kind: str, model: nn.Module, file: Path, classes: Sequence[str], settings: dict[str, Any]
) -> Classifier:
    classifier = Classifier(model, classes, **settings)
    classifier.config["architecture"] = f"{kind}:{file.name}"
    classifier.file = file
    return classifier


def existing(file: Path, *suffixes: str) -> Path:
    """Return the file; ValueError for another suffix, FileNotFoundError where it is not there."""
    if file.suffix not in suffixes:
        raise ValueError(f"expected a file of {', '.join(suffixes)}, got {file.name!r}")
    if not file.is_file():
        raise FileNotFoundError(f"expected {file.name} in {file.parent}, got none")
    return file


def load_classifier(folder: str | Path) -> Classifier:
    """Read a folder with config.json and the weights, as ``save_classifier`` writes it.

    Raises:
        ValueError: an architecture other than ``timm:NAME``, ``evidence:NAME``,
            ``committee:FOLDER,FOLDER``, ``torchscript:FILE``, ``export:FILE``.
        FileNotFoundError: a file is missing.
    """
    folder = Path(folder)
    settings = json.loads(existing(folder / "config.json", ".json").read_text())
    if not {"architecture", "classes"} <= settings.keys():
        raise ValueError(
            f"expected architecture and classes in {folder / 'config.json'}, "
            f"got {', '.join(settings)}"
        )
    architecture, classes = settings.pop("architecture"), settings.pop("classes")
    kind, _, name = architecture.partition(":")
    if kind == "timm":
        return from_timm(name, folder / _WEIGHTS, classes, **settings)
    if kind == "evidence":
        from cfgen.evidence import from_evidence

        return from_evidence(name, folder / _WEIGHTS, classes, **settings)
    if kind == "committee":
        from cfgen.committee import from_members

        return from_members(folder, name.split(","), classes, **settings)
    loaders = {"torchscript": from_torchscript, "export": from_export}
    if kind not in loaders:
        raise ValueError(
            "expected an architecture of timm:NAME, evidence:NAME, committee:FOLDER,FOLDER, "
            f"torchscript:FILE or export:FILE, got {architecture!r}"
        )
    return loaders[kind](folder / name, classes, **settings)


def save_classifier(classifier: Classifier, folder: str | Path) -> None:
    """Write config.json and the weights, or a copy of the file that the classifier came from.

    Raises:
        ValueError: the classifier wraps a module of unknown architecture.
    """
    if "architecture" not in classifier.config:
        raise ValueError(
            "expected a classifier from timm, TorchScript or torch.export, "
            f"got one around a {type(classifier.model).__name__}"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kind, _, name = classifier.config["architecture"].partition(":")
    if kind == "committee":
        members: Any = classifier.model.members
        for part, member in zip(name.split(","), members, strict=True):
            save_classifier(member, folder / part)
    elif classifier.file is None:
        from safetensors.torch import save_model

        save_model(classifier.model, str(folder / _WEIGHTS))
    elif classifier.file.resolve() != (folder / classifier.file.name).resolve():
        shutil.copyfile(classifier.file, folder / classifier.file.name)
    (folder / "config.json").write_text(json.dumps(classifier.config, indent=2) + "\n")
