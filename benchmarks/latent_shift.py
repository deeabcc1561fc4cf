"""latentshift, the package of Gifsplanation, as its API is called: one image after another.

    pip install --no-deps latentshift

Its package imports taming-transformers, pytorch-lightning 1.9.5 and weights from the network; the
method is one file of it, and that file is loaded alone. NumPy 2.4 no longer turns an array of one
entry into a float, as the file asks; its name ``float`` is given one that does.

Reference: Cohen et al., Gifsplanation via Latent Shift, 2021, arXiv:2102.09475.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata, util
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cfgen.generators import Generator

FILE = "latentshift/cf/latent_shift.py"
INSTALL = "pip install --no-deps latentshift"


def load() -> Any:
    """The class ``LatentShift``.

    Raises:
        ImportError: The package is not there.
    """
    try:
        path = metadata.distribution("latentshift").locate_file(FILE)
    except metadata.PackageNotFoundError as error:
        raise ImportError(f"expected latentshift, got none: {INSTALL}") from error
    spec = util.spec_from_file_location("latent_shift_file", str(path))
    assert spec is not None and spec.loader is not None
    module: Any = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.float = lambda value: float(np.asarray(value).item())
    return module.LatentShift


def odds(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Log-odds (B, K) for the logits of f: latentshift takes their sigmoid, f's softmax."""

    def log_odds(x: Tensor) -> Tensor:
        logits = f(x)
        own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
        return logits - logits[:, None].masked_fill(own, -torch.inf).logsumexp(2)

    return log_odds


@torch.enable_grad()
def latent_shift(
    generator: Generator,
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    source: Tensor,
    **options: Any,
) -> list[dict[str, Any]]:
    """Run latentshift with its defaults on images, each away from its class.

    Args:
        generator: E and G.
        f: Images (B, C, H, W) in [0, 1] to logits (B, K).
        x: Images (B, C, H, W) in [0, 1].
        source: Classes (B,) int64 to leave.
        **options: Of its ``attribute``.

    Returns:
        What it returns for each image: ``generated_images`` (S, C, H, W), of which the first is the
        counterfactual, ``lambdas`` (S,), ``preds`` and ``heatmap`` (C, H, W).
    """
    method = load()(odds(f), generator)
    options = {"verbose": False, "return_dicts": True} | options
    return [
        method.attribute(row, target=int(k), **options)[0]
        for row, k in zip(x.split(1), source, strict=True)
    ]


@torch.enable_grad()
def slopes(
    generator: Generator, f: Callable[[Tensor], Tensor], x: Tensor, source: Tensor
) -> Tensor:
    """|d p_source / dz| (B,), the length of what latentshift multiplies with its lambda."""
    lengths = []
    for row, k in zip(x.split(1), source, strict=True):
        z = generator.encode(row).detach().requires_grad_()
        (g,) = torch.autograd.grad(odds(f)(generator.decode(z))[:, int(k)].sigmoid().sum(), z)
        lengths.append(g.norm())
    return torch.stack(lengths)


def heatmaps(
    generator: Generator, f: Callable[[Tensor], Tensor], x: Tensor, source: int, **options: Any
) -> Tensor:
    """Its heatmaps (B, C, H, W) of images (B, C, H, W), away from the class ``source``."""
    classes = torch.full((len(x),), source)
    runs = latent_shift(generator, f, x, classes, **options)
    return torch.stack([torch.as_tensor(run["heatmap"]).to(x) for run in runs])
