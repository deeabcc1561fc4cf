"""A class-conditional rectified flow in latent space, on diffusers' UNet and scheduler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cfgen.priors.base import Prior


class LatentFlow(Prior):
    """z = mean + std * u, where u follows the flow du/dsigma = v(u, sigma, class).

    Between data (sigma = 0) and noise (sigma = 1) lies u = (1 - sigma) u0 + sigma noise, and v is
    trained to be noise - u0. The label ``len(classes)`` stands for no class.

    Args:
        unet: ``diffusers.UNet2DModel`` with ``len(classes) + 1`` class embeddings.
        scheduler: ``diffusers.FlowMatchEulerDiscreteScheduler``.
        classes: Class names; the position is the label.
        mean: Mean of each latent channel (C,).
        std: Standard deviation of each latent channel (C,).

    Reference: Lipman et al., Flow Matching for Generative Modeling, 2023, arXiv:2210.02747; Ho &
    Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598.
    """

    unet: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self, unet: Any, scheduler: Any, classes: tuple[str, ...], mean: Tensor, std: Tensor
    ) -> None:
        super().__init__()
        if unet.config.num_class_embeds != len(classes) + 1:
            raise ValueError(
                f"expected a UNet with {len(classes) + 1} class embeddings, "
                f"got {unet.config.num_class_embeds}"
            )
        self.unet, self.scheduler, self.classes = unet, scheduler, tuple(classes)
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("std", std.view(1, -1, 1, 1))
        self.eval().requires_grad_(False)

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        """Standard deviation of latents (1, C, 1, 1)."""
        return self.std

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one latent (C, h, w)."""
        config = self.unet.config
        return config.in_channels, config.sample_size, config.sample_size

    def velocity(self, u: Tensor, sigma: Tensor, labels: Tensor, guidance: float = 1.0) -> Tensor:
        """The velocity with classifier-free guidance.

        Args:
            u: Normalised latents (B, C, h, w).
            sigma: Share of noise (B,) in [0, 1].
            labels: Classes (B,) int64.
            guidance: 1 for none.

        Returns:
            du / dsigma (B, C, h, w).
        """
        time = sigma * self.scheduler.config.num_train_timesteps
        v = self.unet(u, time, class_labels=labels).sample
        if guidance == 1.0:
            return v
        null = torch.full_like(labels, len(self.classes))
        base = self.unet(u, time, class_labels=null).sample
        return base + guidance * (v - base)

    @torch.no_grad()
    def sample(self, labels: Tensor, seed: int, steps: int = 30, guidance: float = 4.0) -> Tensor:
        """Draw one latent for each label by integrating the flow from noise to data.

        Args:
            labels: Classes (B,) int64.
            seed: Seed of the noise; it is drawn on the CPU, so every device starts the same.
            steps: Euler steps.
            guidance: Classifier-free guidance, 1 for none.

        Returns:
            Latents (B, C, h, w).
        """
        noise = torch.randn(len(labels), *self.shape, generator=torch.Generator().manual_seed(seed))
        u = noise.to(self.mean)
        self.scheduler.set_timesteps(steps, device=u.device)
        for t in self.scheduler.timesteps:
            sigma = (t / self.scheduler.config.num_train_timesteps).expand(len(u))
            v = self.velocity(u, sigma, labels.to(u.device), guidance)
            u = self.scheduler.step(v, t, u, return_dict=False)[0]
        return self.mean + self.std * u

    @torch.no_grad()
    def edit(
        self,
        z: Tensor,
        source: Tensor,
        target: Tensor,
        seed: int,
        *,
        guidance: float = 4.0,
        start: float = 0.8,
        steps: int = 12,
    ) -> Tensor:
        """Move latents from class to class along the difference of two velocities.

        At each noise share, the latent with noise and its edited twin with the same noise are both
        asked for their velocity, one as its own class and one as the target; the twin follows the
        difference. What both have in common cancels, so no inversion is needed, and no error of one
        is left in the chord.

        Args:
            z: Latents (B, C, h, w).
            source: Classes (B,) int64 that they are.
            target: Classes (B,) int64 that they are to be.
            seed: Seed of the noise, drawn on the CPU and the same for each sample.
            guidance: Classifier-free guidance towards the target.
            start: Largest share of noise, in (0, 1]: how much may change.
            steps: Euler steps.

        Returns:
            Latents (B, C, h, w).

        Reference: Kulikov et al., FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained
        Flow Models, 2024, arXiv:2412.08629.
        """
        u = (z - self.mean) / self.std
        generator = torch.Generator().manual_seed(seed)
        sigmas = [start * (1 - k / steps) for k in range(steps)]
        self.scheduler.set_timesteps(sigmas=sigmas, device=u.device)
        e = torch.zeros_like(u)
        for t in self.scheduler.timesteps:
            sigma = (t / self.scheduler.config.num_train_timesteps).expand(len(u))
            s = sigma.view(-1, 1, 1, 1)
            noisy = (1 - s) * u + s * torch.randn(self.shape, generator=generator).to(u)
            v = self.velocity(noisy + e, sigma, target, guidance)
            v = v - self.velocity(noisy, sigma, source)
            e = self.scheduler.step(v, t, e, return_dict=False)[0]
        return z + self.std * e

    def save(self, folder: str | Path) -> None:
        """Write UNet (float16), scheduler and statistics to a folder, without pickle."""
        from copy import deepcopy

        deepcopy(self.unet).half().save_pretrained(folder)
        self.scheduler.save_pretrained(folder)
        statistics = {
            "classes": list(self.classes),
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
        }
        (Path(folder) / "prior.json").write_text(json.dumps(statistics, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> LatentFlow:
        """Read a folder that :meth:`save` wrote; weights in float32."""
        from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DModel

        unet = UNet2DModel.from_pretrained(
            folder, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, local_files_only=True)
        statistics = json.loads((Path(folder) / "prior.json").read_text())
        mean, std = torch.tensor(statistics["mean"]), torch.tensor(statistics["std"])
        return cls(unet, scheduler, tuple(statistics["classes"]), mean, std)
