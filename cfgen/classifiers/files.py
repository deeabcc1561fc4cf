"""Classifiers from and to folders: config.json and the weights, without pickle."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from cfgen.classifiers.adapter import Classifier
from cfgen.classifiers.committee import Committee
from cfgen.classifiers.evidence import EvidenceNet

_WEIGHTS = "model.safetensors"


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


def from_evidence(
    name: str,
    weights: str | Path,
    classes: Sequence[str],
    *,
    arguments: dict[str, Any] | None = None,
    **settings: Any,
) -> Classifier:
    """Build an EvidenceNet on a network of timm; arguments are those of the EvidenceNet."""
    arguments = arguments or {}
    model = EvidenceNet(name, **arguments)
    model.load_state_dict(load_file(str(existing(Path(weights), ".safetensors"))))
    classifier = Classifier(model, classes, **settings)
    classifier.config |= {"architecture": f"evidence:{name}", "arguments": arguments}
    return classifier


def from_members(
    folder: str | Path,
    members: Sequence[str],
    classes: Sequence[str],
    *,
    arguments: dict[str, Any] | None = None,
    **settings: Any,
) -> Classifier:
    """Read a committee from a folder with one folder for each member; arguments are Committee's."""
    arguments = arguments or {}
    several = [load_classifier(Path(folder) / name) for name in members]
    own = several[0].classes
    if tuple(classes) != own:
        raise ValueError(
            f"expected the classes of the members, {', '.join(own)}, got {', '.join(classes)}"
        )
    classifier = Classifier(Committee(several, **arguments), classes, **settings)
    classifier.config |= {
        "architecture": f"committee:{','.join(members)}",
        "arguments": arguments,
    }
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
        return from_evidence(name, folder / _WEIGHTS, classes, **settings)
    if kind == "committee":
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
        save_model(classifier.model, str(folder / _WEIGHTS))
    elif classifier.file.resolve() != (folder / classifier.file.name).resolve():
        shutil.copyfile(classifier.file, folder / classifier.file.name)
    (folder / "config.json").write_text(json.dumps(classifier.config, indent=2) + "\n")
