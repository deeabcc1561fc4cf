"""What a user chooses for a run."""

from __future__ import annotations

from dataclasses import dataclass

from cfgen.directions import DIRECTIONS
from cfgen.engine.constraints import REGIONS

KEPT = ("rows", "pictures", "all")


@dataclass(frozen=True)
class Settings:
    """What a user chooses.

    Attributes:
        target: Class to explain towards; None for the most likely other class of each image.
        direction: Name of a direction.
        detail: Keep what the pair cannot reconstruct.
        confidence: Probability that the target must reach; None for the flip itself.
        batch_size: Images at once; fewer when memory runs out.
        sweep: Images along lambda for the gallery's slider, 0 for none.
        seed: Seed of whatever is random.
        diverse: Counterfactuals of each image, in directions at right angles to each other.
        region: Where images may change by their masks, "lesion" or "outside"; None for everywhere.
        region_margin: Pixels by which the masks are made larger.
        hold: Findings of a multi-label classifier that must not move.
        keep: What stays of each case: "rows" for its row only, "pictures" for the pictures too,
            "all" for arrays and sweep as well.
    """

    target: str | None = None
    direction: str = "minimal_norm"
    detail: bool = True
    confidence: float | None = None
    batch_size: int = 32
    sweep: int = 11
    seed: int = 0
    diverse: int = 1
    region: str | None = None
    region_margin: int = 0
    hold: tuple[str, ...] = ()
    keep: str = "all"

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.direction not in DIRECTIONS:
            names = ", ".join(DIRECTIONS)
            raise ValueError(f"expected a direction of {names}, got '{self.direction}'")
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise ValueError(f"expected a confidence between 0 and 1, got {self.confidence}")
        if self.batch_size < 1:
            raise ValueError(f"expected a batch size of 1 or more, got {self.batch_size}")
        if self.sweep < 0 or self.sweep == 1:
            raise ValueError(f"expected a sweep of 0 or of 2 and more images, got {self.sweep}")
        if self.diverse < 1:
            raise ValueError(f"expected 1 diverse counterfactual or more, got {self.diverse}")
        if self.diverse > 1 and self.direction == "gradient":
            raise ValueError(
                "expected a direction other than 'gradient' for diverse counterfactuals (nothing "
                f"at right angles to it has a slope), got {self.diverse} of 'gradient'"
            )
        if self.region not in (None, *REGIONS):
            raise ValueError(f"expected a region of {', '.join(REGIONS)}, got '{self.region}'")
        if self.region_margin < 0:
            raise ValueError(f"expected a region margin of 0 or more, got {self.region_margin}")
        if self.region_margin and self.region is None:
            raise ValueError("expected a region for the region margin, got none")
        if self.keep not in KEPT:
            raise ValueError(f"expected to keep {', '.join(KEPT)}, got '{self.keep}'")
