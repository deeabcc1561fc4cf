"""What peers of adversarial-library and foolbox attack, and with which settings: see peers.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from cfgen import Problem

SPAN = 4
"""Side of the box that peers see as [0, 1], in tangent-plane steps |m| / |grad m| of the slice.

Their defaults are made for images, where the nearest flip is some 0.1 to 1 away; here it is about
0.25. The slice stands in the middle; a step has many coordinates, so the walls are far."""


class Attacked(nn.Module):
    """What a peer attacks: u (1, *L) in [0, 1] to the logits (0, margin) (1, 2) at z + r(u)."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        margin, gradient = problem.grad(problem.z)
        self.problem = problem
        self.span = SPAN * float(-margin / gradient.norm())
        self.start = torch.full_like(problem.z, 0.5, dtype=torch.float32)
        self.eval()

    def shift(self, u: Tensor) -> Tensor:
        """The shift in latent space (1, *L) of a point u of the box."""
        return (u - self.start).to(self.problem.z) * self.span

    def forward(self, u: Tensor) -> Tensor:
        """Logits (1, 2); class 1 where the criterion is met."""
        problem = self.problem
        margin = problem.criterion(problem.classifier(problem.decode(problem.z + self.shift(u))))
        return torch.stack([torch.zeros_like(margin), margin], 1).float()


Attack = Callable[[Any], Any]
"""An :class:`Attacked` to the point (1, *L) of the box that a peer found."""


def adv_lib(name: str, **options: Any) -> Attack:
    """An attack of adversarial-library; of visdom, its plots of progress, only the name is used."""
    try:
        import_module("visdom")
    except ImportError:
        sys.modules["visdom"] = ModuleType("visdom")
    attack = getattr(import_module("adv_lib.attacks"), name)
    return lambda model: attack(model, model.start, torch.tensor([0]), **options)


def foolbox(name: str, **options: Any) -> Attack:
    """An attack of foolbox."""
    library: Any = import_module("foolbox")
    attack = getattr(library.attacks, name)(**options)

    def run(model: Attacked) -> Tensor:
        bounded = library.PyTorchModel(model, bounds=(0, 1), device=model.start.device)
        return attack(bounded, model.start, torch.tensor([0]), epsilons=None)[0]

    return run


# Settings as in the papers or their defaults; levels=None, for a latent is not on the 8-bit grid.
# Not foolbox's FMN: up to 3.3.4 its projection divides a norm by itself and never shortens a step.
PEERS: dict[str, tuple[str, Callable[[], Attack]]] = {
    "sdf": ("adv-lib", lambda: adv_lib("sdf")),
    "fmn, 100": ("adv-lib", lambda: adv_lib("fmn", norm=2, steps=100)),
    "ddn, 100": ("adv-lib", lambda: adv_lib("ddn", steps=100, levels=None)),
    "C&W, 9 x 100": (
        "foolbox",
        lambda: foolbox("L2CarliniWagnerAttack", binary_search_steps=9, steps=100),
    ),
    "DDN, 100": ("foolbox", lambda: foolbox("DDNAttack", steps=100)),
}
