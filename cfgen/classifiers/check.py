"""What may be wrong with f itself, found by a few calls before a run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from cfgen.classifiers.committee import Committee

IMAGES = 4
"""Images that are looked at, at most."""
SAME = 1e-2
"""Logits are the same within this share of their size: kernels that differ by the size of the batch
and reduced precision (TF32) stay well below it, dropout and statistics of a batch do not."""
SUM = 1e-4
"""Outputs that sum to 1 within it are those of a softmax."""
LOUD, STEPS, STRIDE = 1e4, 20, 0.1
"""What drives a logit out of [0, 1], but never a probability: contrast, and steps down the gradient
by so much of the pixel that each changes most."""


def check_mode(model: object, name: str = "classifier") -> None:
    """Refuse a module that behaves as in training.

    Args:
        model: A module; anything else passes.
        name: What it is to the user.

    Raises:
        ValueError: A layer of dropout or of batch statistics is in train mode.
    """
    for layer in model.modules() if isinstance(model, nn.Module) else ():
        drops = isinstance(layer, _DropoutNd) and layer.p > 0
        if layer.training and (drops or isinstance(layer, _BatchNorm)):
            kind = type(layer).__name__
            raise ValueError(f"expected a {name} in eval mode, got a {kind} in train mode")


def check_models(x: Tensor, **models: object) -> None:
    """Refuse models that behave as in training, or whose weights are of another precision than x.

    Args:
        x: Images.
        **models: Modules by what they are to the user; what is no module passes.

    Raises:
        ValueError: As :func:`check_mode`; x is not float32 or float64, or weights are the other.
    """
    kinds = {torch.float32, torch.float64}
    if x.dtype not in kinds:
        raise ValueError(f"expected images of float32 or float64, got {_name(x.dtype)}")
    for name, model in models.items():
        module = getattr(model, "func", model)  # a partial's
        check_mode(module, name)
        if isinstance(module, nn.Module):
            own = {t.dtype for t in (*module.parameters(), *module.buffers())} & kinds
            if own and x.dtype not in own:
                raise ValueError(
                    f"expected images of {_name(own.pop())}, as the weights of the {name} are, "
                    f"got {_name(x.dtype)}"
                )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@torch.no_grad()
def check_classifier(f: Callable[[Tensor], Tensor], x: Tensor) -> list[str]:
    """Refuse a classifier whose flips would be wrong, and say what about it may not be meant.

    A file keeps the mode that it was exported in, whatever is said to it later; what it does shows.
    The images are seen beside their negatives, twice, and one of them alone.

    Args:
        f: Images (B, C, H, W) in [0, 1] to logits (B, K).
        x: Some images (B, C, H, W) in [0, 1], one at least.

    Returns:
        Lines that warn the user; none where all is well.

    Raises:
        ValueError: f is in train mode, cannot take the images, or any number of them, or its logits
            differ from call to call or with the other images of the batch.
    """
    check_models(x, classifier=f)
    x = x[:IMAGES]
    batch = torch.cat([x, 1 - x])
    first, again, alone = (_logits(f, images) for images in (batch, batch, x[:1]))
    if _apart(first, again):
        raise ValueError(
            "expected a classifier that says the same of the same images, got other logits in a "
            "second call (dropout? save it in eval mode)"
        )
    if _apart(first[:1], alone):
        raise ValueError(
            "expected a classifier that sees each image by itself, got other logits beside other "
            "images (batch statistics? save it in eval mode, with running statistics)"
        )
    lines = []
    lost = int((~first[: len(x)].isfinite().all(1)).sum())
    if lost:
        lines.append(f"expected finite logits, got others for {lost} of {len(x)} images")
    committee = getattr(f, "model", None)
    several = list(committee.members) if isinstance(committee, Committee) else [f]
    looks = {kind for one in several if (kind := _probabilities(one, batch))}
    lines += [
        f"expected logits, got what looks like probabilities (does the classifier end in a {kind}? "
        "leave it out, or confidence and probabilities are wrong)"
        for kind in sorted(looks)
    ]
    return lines


def _logits(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The logits (B, K) of images (B, C, H, W); ValueError in one line where there are none."""
    try:
        logits = f(x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, TypeError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"expected a classifier of any number of images {tuple(x.shape[1:])}, got for {len(x)}:"
            f" {said}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"expected logits of shape ({len(x)}, K), got {got}")
    return logits


def _apart(a: Tensor, b: Tensor) -> bool:
    """Whether logits (n, K) differ by more than rounding, in the size of their row or most rows."""
    a, b = a.float(), b.float()
    both = a.isfinite() & b.isfinite()
    gap = torch.where(both, a - b, 0).abs().amax(1)
    size = torch.where(both, torch.maximum(a.abs(), b.abs()), 0).amax(1)
    return bool((gap > SAME * size.clamp(min=size.median().item())).any())


def _probabilities(f: Callable[[Tensor], Tensor], x: Tensor) -> str:
    """What f seems to end in, "softmax" or "sigmoid", by its outputs for images (n, C, H, W).

    Logits may lie in [0, 1] by chance; but they leave it where the contrast is far
    too large, or where the image goes down the gradient of the output.
    """
    outputs = _outputs(f, x)
    if not len(outputs) or bool((outputs - outputs[:1]).abs().amax() < SUM):
        return ""  # a constant tells nothing
    everywhere = [outputs, _outputs(f, LOUD * (2 * x - 1))]
    for _ in range(STEPS):
        if not all(_inside(outputs) for outputs in everywhere):
            return ""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            outputs = _outputs(f, x)
            if not outputs.requires_grad:
                break
            (slope,) = torch.autograd.grad(outputs[:, 0].sum(), x)
        x = x - STRIDE * slope / slope.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-30)
        everywhere.append(outputs.detach())
    sums = torch.cat(everywhere).sum(1)
    return "softmax" if bool(((sums - 1).abs() < SUM).all()) else "sigmoid"


def _outputs(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Finite outputs (n, K) of the model in f, which adds a logit of 0 to that of a sigmoid."""
    outputs = f(x).float() * getattr(f, "temperature", 1.0)
    outputs = outputs[:, 1:] if getattr(f, "head", None) == "sigmoid" else outputs
    return outputs[outputs.isfinite().all(1)]


def _inside(outputs: Tensor) -> bool:
    """Whether outputs (n, K) all lie in [0, 1]."""
    return bool(((outputs >= -SUM) & (outputs <= 1 + SUM)).all())
