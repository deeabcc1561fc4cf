"""How plausible an image is: LPIPS, its sketch, the conformal p-value, the false discovery rate."""

from cfgen.plausibility.conformal import (
    Plausibility,
    conformal_p_value,
    false_discovery_rate,
    round_trip,
)
from cfgen.plausibility.lpips import LPIPS
from cfgen.plausibility.reference import Reference, nearest
from cfgen.plausibility.sketch import sketch

__all__ = [
    "LPIPS",
    "Plausibility",
    "Reference",
    "conformal_p_value",
    "false_discovery_rate",
    "nearest",
    "round_trip",
    "sketch",
]
