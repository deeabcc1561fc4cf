"""Train a classifier healthy / tumour: the target f or the oracle (another architecture).

The target is trained on L2 adversarial examples of random radius, so that its gradient, which the
counterfactual follows, points at what changes the image and not at an invisible pattern;
``evidence`` is a target that pools local evidence. The oracle is trained without. Slices made by
``lesions`` keep a place from standing for a class, and slices whose latent was moved at random show
what a search sees. All also say where the lesion is, by their evidence or by a linear layer on
intermediate features that is thrown away afterwards: sixty patients teach more with their masks
than with one bit a slice. Models are selected and calibrated, by slope and shift, on real val.

Reference: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018,
arXiv:1706.06083; Augustin et al., Adversarial Robustness on In- and Out-Distribution Improves
Explainability, 2020, arXiv:2003.09461.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import timm
import torch
from safetensors.torch import save_model
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from cfgen.classifiers.evidence import EvidenceNet
from cfgen.generators import Autoencoder, Generator
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
from cfgen.training.lesions import Slices, made

CLASSES = ["healthy", "tumour"]
ARCHITECTURES = {
    "target": (
        "timm:resnet10t",
        {
            "in_chans": 1,
            "num_classes": 2,
            "channels": [24, 48, 96, 160],
            "stem_width": 16,
            "drop_rate": 0.2,
        },
    ),
    "evidence": (
        "evidence:resnet10t",
        {"in_chans": 1, "channels": [24, 48, 96, 96], "stem_width": 16},
    ),
    "oracle": (
        "timm:densenet121",
        {
            "in_chans": 1,
            "num_classes": 2,
            "growth_rate": 16,
            "block_config": [4, 6, 8, 6],
            "drop_rate": 0.2,
        },
    ),
}
LOOKED_AT = {
    "target": ("layer2", "layer3"),
    "evidence": ("join",),
    "oracle": ("features.denseblock2", "features.denseblock3"),
}
MEAN, STD = 0.12, 0.15
JITTER = 0.5  # standard deviation of the noise in z


def build(name: str) -> nn.Module:
    """An untrained model for grey images and two classes."""
    architecture, arguments = ARCHITECTURES[name]
    kind, _, network = architecture.partition(":")
    if kind == "evidence":
        return EvidenceNet(network, **arguments)
    return timm.create_model(network, pretrained=False, **arguments)


class Localiser(nn.Module):
    """A share of lesion for each cell of the evidence, or of intermediate features.

    Args:
        model: An EvidenceNet, or a timm model, whose features get a linear layer for the training.
        names: Its modules whose outputs are looked at.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.maps: list[Tensor] = []
        own = isinstance(model, EvidenceNet)
        for name in names:
            model.get_submodule(name).register_forward_hook(lambda *a: self.maps.append(a[-1]))
        logits_of(model, torch.zeros(2, 1, 64, 64))
        self.heads = nn.ModuleList(
            nn.Identity() if own else nn.Conv2d(m.shape[1], 1, 1) for m in self.maps
        )
        self.maps.clear()

    def loss(self, masks: Tensor) -> Tensor:
        """Cross-entropy of the last pass with masks (B, 1, H, W) in [0, 1], averaged per cell."""
        total = masks.new_zeros(())
        for head, features in zip(self.heads, self.maps, strict=True):
            share = F.adaptive_avg_pool2d(masks, (features.shape[2], features.shape[3]))
            total = total + F.binary_cross_entropy_with_logits(head(features), share)
        self.maps.clear()
        return total


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """Logits (B, 2) of images (B, 1, H, W) in [0, 1]."""
    logits = model((x - MEAN) / STD)
    return F.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits


def attack(model: nn.Module, x: Tensor, y: Tensor, radius: float, steps: int) -> Tensor:
    """Images within L2 distance of a random share of ``radius`` that raise the loss (PGD).

    Args:
        model: Network.
        x: Images (B, 1, H, W) in [0, 1].
        y: Labels (B,).
        radius: Largest L2 distance; each image draws its own from [0, radius].
        steps: Gradient steps.

    Returns:
        Images of the same shape in [0, 1].
    """
    r = torch.rand(len(x), 1, 1, 1) * radius
    # A random start: one-step training from x itself collapses (Wong et al., 2020).
    d = torch.randn_like(x)
    d = 0.3 * r * d / d.flatten(1).norm(dim=1)[:, None, None, None]
    model.eval()
    for _ in range(steps):
        d.requires_grad_(True)
        loss = F.cross_entropy(logits_of(model, x + d), y, reduction="sum")
        (g,) = torch.autograd.grad(loss, d)
        g = g / g.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
        d = (x + d.detach() + g * r * (1.5 / steps)).clamp(0, 1) - x
        n = d.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
        d = d * (r / n).clamp(max=1)
    model.train()
    return (x + d).detach()


@torch.no_grad()
def jittered(pair: Generator, slices: Slices, number: int) -> Slices:
    """Random slices as a search in latent space shows them: moved by random noise in z.

    Half of them keep the detail that the pair cannot reconstruct.
    """
    index = torch.randperm(len(slices.images))[:number]
    images = []
    for batch in slices.images[index].split(32):
        x = batch.float() / 255
        z = pair.encode(x)
        keep = (torch.rand(len(x), 1, 1, 1) < 0.5).to(x)
        moved = pair.decode(z + JITTER * torch.randn_like(z)) + keep * (x - pair.decode(z))
        images.append((moved.clamp(0, 1) * 255).round().byte())
    return Slices(torch.cat(images), slices.masks[index], slices.labels[index])


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (N, 2) of uint8 images (N, 1, H, W)."""
    return torch.cat([logits_of(model, b.float() / 255) for b in images.split(64)])


def fit_platt(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Slope a > 0 and shift b of the log-odds d of (N, 2) logits, so that a d + b is calibrated.

    They minimise the negative log-likelihood. A temperature alone would leave the shift that
    training on made slices, half of them with a lesion, brings.

    Reference: Platt, Probabilistic Outputs for Support Vector Machines, 1999.
    """
    d = logits[:, 1] - logits[:, 0]
    t = torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.LBFGS([t], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.binary_cross_entropy_with_logits(t[0].exp() * d + t[1], labels.to(d))
        loss.backward()
        return loss

    optimiser.step(closure)
    return float(t[0].detach().exp()), float(t[1].detach())


def shifted(model: nn.Module, amount: float) -> nn.Module:
    """A copy of the model with ``amount`` added to its log-odds of a tumour."""
    model = copy.deepcopy(model)
    if isinstance(model, EvidenceNet):
        model.bias.data += amount
    else:
        bias = model.get_classifier().bias  # type: ignore[operator]
        bias.data += torch.tensor([0.0, amount])
    return model


def main() -> None:
    """Command line of this script."""
    p = parser(__doc__, steps=2200, batch_size=24, lr=1.5e-3)
    p.add_argument("--model", choices=sorted(ARCHITECTURES), default="target")
    p.add_argument("--real-only", action="store_true", help="no slices made by lesions")
    p.add_argument("--made", type=float, default=0.3, help="share of a batch that is made")
    p.add_argument("--autoencoder", type=Path, help="folder of the pair whose latents are moved")
    p.add_argument("--jittered", type=int, default=2000, help="slices with a moved latent")
    p.add_argument("--radius", type=float, default=1.2, help="largest L2 radius of PGD, 0: none")
    p.add_argument("--attack-steps", type=int, default=1)
    p.add_argument("--noise", type=float, default=0.03, help="largest std of Gaussian noise")
    p.add_argument("--localise", type=float, default=3.0, help="weight of the lesion's place")
    args = p.parse_args()
    seed_all(args.seed)
    images, labels, _ = load_split(args.data, "train")
    real = Slices(images, load_masks(args.data, "train"), labels)
    more = real if args.real_only else made(real, args.seed)
    if args.autoencoder:
        pair = Autoencoder.load(args.autoencoder, channels=1, value_range=(0.0, 1.0)).freeze()
        moved = jittered(pair, Slices(*map(torch.cat, zip(real, more, strict=True))), args.jittered)
        more = Slices(*map(torch.cat, zip(more, moved, strict=True)))
    val, val_labels, _ = load_split(args.data, "val")
    model = build(args.model).train().to(memory_format=torch.channels_last)
    ema = copy.deepcopy(model).eval()
    localiser = Localiser(model, LOOKED_AT[args.model])
    weights = [*model.parameters(), *localiser.parameters()]
    optimiser = torch.optim.AdamW(weights, args.lr, weight_decay=0.05)
    log, best = Log(args.out), -1.0
    for step in range(args.steps):
        for group in optimiser.param_groups:
            group["lr"] = args.lr * cosine(step, args.steps)
        parts = []
        for of, size in ((real, 1 - args.made), (more, args.made)):
            index = torch.randint(len(of.images), (round(size * args.batch_size),))
            parts.append(Slices(*(t[index] for t in of)))
        image, mask, y = map(torch.cat, zip(*parts, strict=True))
        # Adversaries are made of one half of the batch, which is to hold both kinds.
        order = torch.randperm(len(y))
        both, y = torch.cat([image, mask], dim=1)[order].float() / 255, y[order]
        x, mask = augment(both, degrees=20, scale=0.2).split(1, dim=1)
        x = relight(x, gain=0.4, gamma=0.3)  # patients and scanners differ most in brightness
        x = x + torch.rand(len(x), 1, 1, 1) * args.noise * torch.randn_like(x)
        if args.radius > 0:
            half = len(x) // 2  # the other half stays clean
            radius = args.radius * min(1.0, step / 500)
            x = torch.cat([attack(model, x[:half], y[:half], radius, args.attack_steps), x[half:]])
        localiser.maps.clear()
        loss = F.cross_entropy(logits_of(model, x), y, label_smoothing=0.01)
        loss = loss + args.localise * localiser.loss(mask)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        decay = min(0.995, (step + 1) / (step + 10))
        with torch.no_grad():
            for a, b in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
                if a.is_floating_point():
                    a.lerp_(b, 1 - decay)
                else:
                    a.copy_(b)
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            out = predict(ema, val)
            auc = float(roc_auc_score(val_labels, out[:, 1] - out[:, 0]))
            nll = float(F.cross_entropy(out, val_labels))
            log(step=step + 1, loss=float(loss.detach()), val_auc=auc, val_nll=nll)
            if auc > best:  # model selection on val only
                best = auc
                slope, shift = fit_platt(out, val_labels)
                architecture, arguments = ARCHITECTURES[args.model]
                config = {
                    "architecture": architecture,
                    "arguments": arguments,
                    "classes": CLASSES,
                    "mean": MEAN,
                    "std": STD,
                    "channels": 1,
                    "size": None,
                    "temperature": 1 / slope,
                    "head": "sigmoid" if architecture.startswith("evidence:") else "softmax",
                }
                (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
                save_model(shifted(ema, shift / slope), str(args.out / "model.safetensors"))


if __name__ == "__main__":
    main()
