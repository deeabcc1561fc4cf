"""Directions: where the unit step alpha comes from."""

from cfgen.directions.base import Direction
from cfgen.directions.confined import Confined
from cfgen.directions.gradient import Gradient
from cfgen.directions.guided import Guided
from cfgen.directions.minimal_norm import MinimalNorm
from cfgen.directions.natural_gradient import NaturalGradient
from cfgen.directions.smoothed import Smoothed
from cfgen.directions.translation import Translation

DIRECTIONS: dict[str, type[Direction]] = {
    "gradient": Gradient,
    "natural_gradient": NaturalGradient,
    "minimal_norm": MinimalNorm,
    "translation": Translation,
    "guided": Guided,
}
PRIOR_GUIDED = ("translation", "guided")
"""Directions that are made with a prior and a seed."""

__all__ = [
    "DIRECTIONS",
    "PRIOR_GUIDED",
    "Confined",
    "Direction",
    "Gradient",
    "Guided",
    "MinimalNorm",
    "NaturalGradient",
    "Smoothed",
    "Translation",
]
