"""Autoencoders of the diffusers library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfgen.generators.base import Generator

# How each class spells its number of levels; every level but the first halves the side.
_LEVELS = {
    "AutoencoderKL": "block_out_channels",
    "AutoencoderTiny": "encoder_block_out_channels",
    "VQModel": "block_out_channels",
    "AutoencoderDC": "encoder_block_out_channels",
}
_WEIGHTS = "diffusion_pytorch_model.safetensors"


class Autoencoder(Generator):
    """An autoencoder of diffusers: z = (E(x) - shift) * scaling, as its pipelines hold latents.

    E is deterministic: the mode of the posterior for AutoencoderKL. A VQModel gives the latents
    before quantisation and decodes them without (``force_not_quantize=True``), for the nearest
    codebook entry has no gradient; its reconstruction is therefore not the quantised one.

    A model trained behind a space-to-depth stem of size s sees C * s**2 channels and sides s times
    smaller; the stem is put before E and its inverse after G.

    Args:
        model: AutoencoderKL, AutoencoderTiny, VQModel or AutoencoderDC; frozen, put in eval mode.
        channels: C of the images, 1 or 3.
        stem: s; by default what the model's ``in_channels`` says.
        value_range: the values that the model holds for 0 and 1.
        sigma: as of every Generator, in pixels.

    Raises:
        ValueError: another class, channels that do not fit, or a negative sigma.

    Reference:
        Rombach, Blattmann, Lorenz, Esser, Ommer (2022). High-Resolution Image Synthesis with Latent
        Diffusion Models. arXiv:2112.10752.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        channels: int,
        stem: int | None = None,
        value_range: tuple[float, float] = (-1.0, 1.0),
        sigma: float = 0.0,
    ) -> None:
        """Read the conventions of the model from its config."""
        super().__init__()
        self.kind = type(model).__name__
        if self.kind not in _LEVELS:
            raise ValueError(f"expected a model of {', '.join(_LEVELS)}, got {self.kind}")
        if channels not in (1, 3):
            raise ValueError(f"expected 1 or 3 channels, got {channels}")
        self.model: Any = model
        config = self.model.config
        if config.get("lookup_from_codebook"):
            raise ValueError("expected a VQModel that decodes latents, got lookup_from_codebook")
        inferred = round((config.in_channels / channels) ** 0.5)
        if config.in_channels != channels * inferred**2:
            raise ValueError(
                f"expected a model of {channels} * stem**2 channels, got {config.in_channels}"
            )
        if stem not in (None, inferred):
            raise ValueError(
                f"expected stem {inferred} for a model of {config.in_channels} channels, got {stem}"
            )
        self.channels = channels
        self.stem = inferred
        self.multiple = inferred * 2 ** (len(config[_LEVELS[self.kind]]) - 1)
        if not sigma >= 0:
            raise ValueError(f"expected sigma of at least 0, got {sigma}")
        self.low, self.high = value_range
        self.sigma = sigma
        self.shift = config.get("shift_factor") or 0.0
        self.scaling = config.scaling_factor
        self.freeze()

    @classmethod
    def load(cls, folder: str | Path, **kwargs: Any) -> Autoencoder:
        """Read what ``save_pretrained`` wrote; never from the network.

        Args:
            folder: holds config.json and the safetensors weights.
            **kwargs: of the constructor.

        Raises:
            FileNotFoundError: no config.json or no weights.
            ValueError: the class is not one of the four, or weights are missing from the file.
        """
        import diffusers

        folder = Path(folder)
        for options in (("config.json",), (_WEIGHTS, f"{_WEIGHTS}.index.json")):
            if not any((folder / name).is_file() for name in options):
                raise FileNotFoundError(f"expected {options[0]} in {folder}, got none")
        name = json.loads((folder / "config.json").read_text()).get("_class_name")
        if name not in _LEVELS:
            raise ValueError(
                f"expected _class_name of {', '.join(_LEVELS)} in {folder / 'config.json'}, "
                f"got {name!r}"
            )
        model, info = getattr(diffusers, name).from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
        if info["missing_keys"]:
            # diffusers would go on with random numbers in their place.
            raise ValueError(
                f"expected every weight of {name} in {folder}, "
                f"got none for {', '.join(sorted(info['missing_keys']))}"
            )
        return cls(model, **kwargs)

    def encode(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) in [0, 1] to latents (B, c, h, w).

        Raises:
            ValueError: another number of channels, or sides that the model cannot halve.
        """
        if (
            x.ndim != 4
            or x.shape[1] != self.channels
            or any(s % self.multiple for s in x.shape[2:])
        ):
            raise ValueError(
                f"expected images of shape (B, {self.channels}, H, W) with H and W multiples of "
                f"{self.multiple}, got {tuple(x.shape)}"
            )
        x = F.pixel_unshuffle(x * (self.high - self.low) + self.low, self.stem)
        raw = self.model.encode(x, return_dict=False)[0]
        if self.kind == "AutoencoderKL":
            raw = raw.mode()
        return (raw - self.shift) * self.scaling

    def decode(self, z: Tensor) -> Tensor:
        """Map latents (B, c, h, w) to images (B, C, H, W), not clamped."""
        options = {"force_not_quantize": True} if self.kind == "VQModel" else {}
        raw = z / self.scaling + self.shift
        y = self.model.decode(raw, return_dict=False, **options)[0]
        return (F.pixel_shuffle(y, self.stem) - self.low) / (self.high - self.low)
