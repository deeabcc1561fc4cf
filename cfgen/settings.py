"""What a user chooses for a run."""

from __future__ import annotations

from dataclasses import dataclass

from cfgen.directions import DIRECTIONS


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
    """

    target: str | None = None
    direction: str = "minimal_norm"
    detail: bool = True
    confidence: float | None = None
    batch_size: int = 32
    sweep: int = 11
    seed: int = 0

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
