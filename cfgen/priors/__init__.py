"""Priors: distributions of latents, from which synthetic patients are drawn."""

from cfgen.priors.base import Prior
from cfgen.priors.flow import LatentFlow

__all__ = ["LatentFlow", "Prior"]
