"""Directions: where the unit step alpha comes from."""

from cfgen.directions.base import Direction
from cfgen.directions.gradient import Gradient
from cfgen.directions.minimal_norm import MinimalNorm

DIRECTIONS: dict[str, type[Direction]] = {
    "gradient": Gradient,
    "minimal_norm": MinimalNorm,
}

__all__ = ["DIRECTIONS", "Direction", "Gradient", "MinimalNorm"]
