"""Train the autoencoder E, G on the train split: a smooth latent first, then a sharp decoder.

Stage one trains encoder and decoder with L1, L1 of the image gradients at three scales, and a KL
term strong enough that a step in latent space decodes to a small, honest change. Stage two
(``--decoder-only``) freezes the encoder, so that the latent space stays as it is, and sharpens the
decoder with LPIPS and a patch discriminator, on noisy latents so that it stays smooth.

Reference: Kingma & Welling, Auto-Encoding Variational Bayes, 2014, arXiv:1312.6114; Rombach et al.,
High-Resolution Image Synthesis with Latent Diffusion Models, 2022, arXiv:2112.10752.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from cfgen.training.common import Log, augment, cosine, load_split, parser, seed_all

STEM = 4


def edges(x: Tensor, y: Tensor, scales: int = 3) -> Tensor:
    """Mean L1 distance of the image gradients of x and y (B, 1, H, W) over a pyramid: a scalar."""
    loss = x.new_zeros(())
    for _ in range(scales):
        d = x - y
        loss = loss + d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean()
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return loss / scales


def build(latent_channels: int) -> AutoencoderKL:
    """An AutoencoderKL behind a space-to-depth stem of 4: 128 x 128 grey to 8 x 8 latents."""
    settings: dict[str, Any] = dict(
        in_channels=STEM**2,
        out_channels=STEM**2,
        block_out_channels=(48, 96, 160),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=16,
        mid_block_add_attention=False,
        sample_size=32,
        scaling_factor=1.0,
    )
    return AutoencoderKL(**settings)


def decode(model: Any, z: Tensor) -> Tensor:
    """Latents (B, C, h, w) to images (B, 1, H, W)."""
    return F.pixel_shuffle(model.decode(z).sample, STEM)


class Discriminator(nn.Sequential):
    """Patch discriminator on images (B, 1, H, W): logits (B, 1, H / 8, W / 8)."""

    def __init__(self) -> None:
        norm = nn.utils.parametrizations.spectral_norm
        super().__init__(
            nn.PixelUnshuffle(2),
            norm(nn.Conv2d(4, 32, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(32, 64, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(64, 64, 3, 1, 1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(64, 1, 3, 1, 1)),
        )


@torch.no_grad()
def validate(model: Any, images: Tensor) -> dict[str, float]:
    """PSNR of reconstructions and statistics of the latent on uint8 images (N, 1, H, W)."""
    psnr, mus, stds = [], [], []
    for batch in images.split(32):
        x = batch.float() / 255
        posterior = model.encode(F.pixel_unshuffle(x, STEM)).latent_dist
        mse = (decode(model, posterior.mode()).clamp(0, 1) - x).square().mean((1, 2, 3))
        psnr.append(-10 * mse.log10())
        mus.append(posterior.mean)
        stds.append(posterior.std)
    mu, std = torch.cat(mus), torch.cat(stds)
    return {
        "psnr": float(torch.cat(psnr).mean()),
        "mu_std": float(mu.std()),
        "posterior_std": float(std.mean()),
        "active": float((mu.var(0) > 0.01).float().mean()),
    }


def main() -> None:
    """Command line of this script."""
    p = parser(__doc__, steps=6000, batch_size=8, lr=6e-4)
    p.add_argument("--latent-channels", type=int, default=16)
    p.add_argument("--kl", type=float, default=6e-3, help="weight of the mean KL per latent number")
    p.add_argument("--decoder-only", action="store_true", help="stage two: sharpen the decoder")
    p.add_argument("--lpips", type=float, default=0.15, help="stage two: weight of LPIPS")
    p.add_argument("--adversarial", type=float, default=0.01, help="stage two: weight of the GAN")
    args = p.parse_args()
    seed_all(args.seed)
    train, _, _ = load_split(args.data, "train")
    val, _, _ = load_split(args.data, "val")
    if args.decoder_only:
        from cfgen.plausibility import LPIPS

        model: Any = AutoencoderKL.from_pretrained(args.out)
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
        perceptual = LPIPS("st-alex")
        disc = Discriminator()
        disc_opt = torch.optim.Adam(disc.parameters(), 2 * args.lr, betas=(0.5, 0.9))
    else:
        model = build(args.latent_channels)
    model.train()
    ema = copy.deepcopy(model).eval()
    weights = [w for w in model.parameters() if w.requires_grad]
    optimiser = torch.optim.AdamW(weights, args.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    log = Log(args.out)
    for step in range(args.steps):
        for group in optimiser.param_groups:
            group["lr"] = args.lr * cosine(step, args.steps)
        index = torch.randint(len(train), (args.batch_size,))
        x = augment(train[index].float() / 255)
        with torch.set_grad_enabled(not args.decoder_only):
            posterior = model.encode(F.pixel_unshuffle(x, STEM)).latent_dist
            z = posterior.sample()
        y = decode(model, z)
        l1 = (y - x).abs().mean()
        loss = l1 + edges(y, x)
        if args.decoder_only:
            i, j = torch.randint(0, x.shape[-1] - 63, (2,)).tolist()
            xc, yc = (t[..., i : i + 64, j : j + 64] for t in (x, y))
            loss = loss + args.lpips * perceptual(yc.clamp(0, 1), xc).mean()
            disc_loss = F.relu(1 - disc(x)).mean() + F.relu(1 + disc(y.detach())).mean()
            disc_opt.zero_grad()
            disc_loss.backward()
            disc_opt.step()
            ramp = min(1.0, step / 200)
            loss = loss - ramp * args.adversarial * disc(y).mean()
        else:
            # kl() sums over a sample; the weight is per latent number so that it does not
            # depend on the size of the latent.
            kl = posterior.kl().mean() / z[0].numel()
            loss = loss + args.kl * min(1.0, step / 500) * kl
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        decay = min(0.998, (step + 1) / (step + 10))
        with torch.no_grad():
            for a, b in zip(ema.parameters(), model.parameters(), strict=True):
                a.lerp_(b, 1 - decay)
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            log(
                step=step + 1,
                loss=float(loss.detach()),
                l1=float(l1.detach()),
                **validate(ema, val),
            )
            copy.deepcopy(ema).half().save_pretrained(args.out)


if __name__ == "__main__":
    main()
