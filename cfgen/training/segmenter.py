"""Train the segmenter that benchmarks ask how much lesion a counterfactual leaves; it only judges.

Reference: Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation,
2015, arXiv:1505.04597; Milletari et al., V-Net (Dice loss), 2016, arXiv:1606.04797.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from cfgen.training.common import (
    Log,
    augment,
    cosine,
    load_masks,
    load_split,
    parser,
    relight,
    seed_all,
)

STEM = 2


class Segmenter(nn.Module):
    """P(lesion) of each pixel: a small U-Net behind a space-to-depth stem of 2.

    Args:
        unet: ``diffusers.UNet2DModel`` with 4 channels in and out; its time is always 0.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def logits(self, x: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of images (B, 1, H, W) in [0, 1]."""
        time = torch.zeros(len(x), device=x.device)
        return F.pixel_shuffle(self.unet(F.pixel_unshuffle(x, STEM) * 4 - 1, time).sample, STEM)

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities (B, 1, H, W) of images (B, 1, H, W) in [0, 1]."""
        return self.logits(x).sigmoid()

    @classmethod
    def load(cls, folder: str | Path) -> Segmenter:
        """Read a folder that this script wrote, frozen and in eval mode, in float32."""
        unet = UNet2DModel.from_pretrained(
            folder, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        return cls(unet).eval().requires_grad_(False)


def build() -> Segmenter:
    """An untrained segmenter."""
    return Segmenter(
        UNet2DModel(
            in_channels=STEM**2,
            out_channels=STEM**2,
            layers_per_block=1,
            block_out_channels=(24, 48, 64, 96),
            down_block_types=("DownBlock2D",) * 4,
            up_block_types=("UpBlock2D",) * 4,
            norm_num_groups=8,
            add_attention=False,
        )
    )


def dice(p: Tensor, masks: Tensor) -> Tensor:
    """Soft Dice over a whole batch: a scalar in [0, 1]."""
    return (2 * (p * masks).sum() + 1) / (p.sum() + masks.sum() + 1)


@torch.no_grad()
def predict(model: Segmenter, images: Tensor) -> Tensor:
    """Probabilities (N, 1, H, W) of uint8 images (N, 1, H, W)."""
    return torch.cat([model(b.float() / 255) for b in images.split(32)])


def main() -> None:
    """Command line of this script."""
    p = parser(__doc__, steps=1200, batch_size=16, lr=1.5e-3)
    args = p.parse_args()
    seed_all(args.seed)
    train, _, _ = load_split(args.data, "train")
    masks = load_masks(args.data, "train")
    val, _, _ = load_split(args.data, "val")
    val_masks = load_masks(args.data, "val").float() / 255
    model = build().train()
    ema = copy.deepcopy(model).eval()
    optimiser = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.01)
    log, best = Log(args.out), -1.0
    for step in range(args.steps):
        for group in optimiser.param_groups:
            group["lr"] = args.lr * cosine(step, args.steps)
        index = torch.randint(len(train), (args.batch_size,))
        pair = torch.cat([train[index], masks[index]], dim=1).float() / 255
        x, mask = augment(pair, degrees=20, scale=0.2).split(1, dim=1)
        out = model.logits(relight(x, gain=0.4, gamma=0.3))
        loss = F.binary_cross_entropy_with_logits(out, mask) + 1 - dice(out.sigmoid(), mask)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        decay = min(0.99, (step + 1) / (step + 10))
        with torch.no_grad():
            for a, b in zip(ema.parameters(), model.parameters(), strict=True):
                a.lerp_(b, 1 - decay)
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            value = float(dice((predict(ema, val) > 0.5).float(), val_masks))
            log(step=step + 1, loss=float(loss.detach()), val_dice=value)
            if value > best:  # model selection on val only
                best = value
                copy.deepcopy(ema.unet).half().save_pretrained(args.out)


if __name__ == "__main__":
    main()
