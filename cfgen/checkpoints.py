"""A checkpoint: a folder with the models of one task. Name or folder to models, without pickle.

NAME/config.json      what stands where, image size
NAME/README.md        model card
NAME/autoencoder/     config.json + safetensors, diffusers' save_pretrained
NAME/classifier/      config.json + safetensors
NAME/oracle/          the same; judges, never searched with (may be absent)
NAME/prior/           config.json + safetensors (may be absent)
NAME/plausibility/    the same; sketches of real images and calibration (may be absent)
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cfgen.classifiers.adapter import Classifier
from cfgen.classifiers.files import load_classifier
from cfgen.generators import Autoencoder, Generator
from cfgen.plausibility.reference import Reference
from cfgen.priors import LatentFlow, Prior

# Beside the package in a clone, inside it in a wheel.
ROOTS = (Path(__file__).parents[1] / "checkpoints", Path(__file__).parent / "_checkpoints")
WEIGHTS = (".safetensors", ".pt", ".pth", ".pt2")
CONFIGS = ("config.json", "prior.json", "scheduler_config.json")


@dataclass(frozen=True)
class Checkpoint:
    """The models of one task.

    Attributes:
        name: Name of the folder.
        generator: E and G.
        classifier: f, the model that is explained.
        oracle: A second classifier that only judges, or None.
        prior: Where synthetic patients come from, or None.
        channels: Channels of an image.
        size: Height and width of an image.
        calibration: For each class, how strange real images of it are (n,): by the reference, or
            where there is none by the round-trip LPIPS alone.
        reference: What real images look like to LPIPS, or None.
        folder: Where it was loaded from; None where a part of it was replaced since.
        hashes: SHA-256 of each file that is read: weights, and what is set beside them.
    """

    name: str
    generator: Generator
    classifier: Classifier
    oracle: Classifier | None
    prior: Prior | None
    channels: int
    size: tuple[int, int]
    calibration: dict[str, Tensor] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    reference: Reference | None = None
    folder: str | None = field(default=None, init=False)

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Another process loads the folder: what an export or TorchScript holds is in no pickle."""
        return super().__reduce__() if self.folder is None else (load_checkpoint, (self.folder,))

    def to(self, device: str | torch.device) -> Checkpoint:
        """The checkpoint with its models on a device, where they are moved."""
        for model in (self.generator, self.classifier, self.oracle, self.prior):
            if isinstance(model, nn.Module):
                model.to(device)
        return self


def available() -> list[str]:
    """Names of the checkpoints that come with cfgen."""
    return sorted(path.parent.name for root in ROOTS for path in root.glob("*/config.json"))


def find(name: str) -> Path:
    """The folder of a checkpoint, given by its path or its name.

    Raises:
        ValueError: There is no such checkpoint.
    """
    for folder in (Path(name), *(root / name for root in ROOTS)):
        if (folder / "config.json").is_file():
            return folder
    names = ", ".join(available()) or "(none found)"
    raise ValueError(f"expected a checkpoint folder or one of {names}, got '{name}'")


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder that is read: weights, and what is set beside them."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in WEIGHTS or p.name in CONFIGS)
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def load_checkpoint(name: str, device: str | torch.device = "cpu") -> Checkpoint:
    """Load the models of a checkpoint, frozen and in eval mode.

    Args:
        name: Name or folder.
        device: Where the models go.

    Raises:
        ValueError: There is no such checkpoint, a part of it is missing, or its plausibility was
            measured with other weights.
    """
    folder = find(name)
    config = json.loads((folder / "config.json").read_text())
    for part in ("image", "generator", "classifier"):
        if part not in config:
            names = ", ".join(config)
            raise ValueError(f"expected '{part}' in {folder.name}/config.json, got {names}")
    image, pair = config["image"], config["generator"]
    generator = Autoencoder.load(
        folder / pair["folder"],
        channels=image["channels"],
        stem=pair["stem"],
        value_range=tuple(pair["value_range"]),
        sigma=pair.get("sigma", 0.0),
    )

    # On a CPU, convolutions of channels that lie last take half the time.
    last = torch.device(device).type == "cpu"
    layout = torch.channels_last if last else torch.preserve_format

    def classifier(part: str) -> Classifier:
        return load_classifier(folder / config[part]).to(device).to(memory_format=layout)

    hashes = hashes_of(folder)
    reference = None
    calibration = {k: torch.tensor(v) for k, v in config.get("calibration", {}).items()}
    if "plausibility" in config:
        reference, calibration = Reference.load(folder / config["plausibility"], hashes)
    checkpoint = Checkpoint(
        name=folder.resolve().name,
        generator=generator.to(device).to(memory_format=layout).freeze(),
        classifier=classifier("classifier"),
        oracle=classifier("oracle") if "oracle" in config else None,
        prior=LatentFlow.load(folder / config["prior"]).to(device) if "prior" in config else None,
        channels=image["channels"],
        size=tuple(image["size"]),
        calibration=calibration,
        hashes=hashes,
        reference=reference,
    )
    object.__setattr__(checkpoint, "folder", str(folder.resolve()))
    return checkpoint
