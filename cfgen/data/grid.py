"""The grid of a slice: the shape and size of its pixels, and which side of the patient is where."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from cfgen.data.raster import UnreadableImage
from cfgen.data.read import padded

LONGEST = 100  # a pixel that is longer than this, in its own widths, is damage
OBLIQUE = 0.25  # cosine from which a side is named beside a nearer one


class Sides(NamedTuple):
    """What lies at the edges of a picture: letters of L, R, A, P, H, F, the nearest one first."""

    left: str
    right: str
    top: str
    bottom: str


@dataclass(frozen=True)
class Grid:
    """What a file says of the pixels of a slice.

    Attributes:
        aspect: Height of a pixel over its width.
        spacing: Millimetres from row to row and from column to column; None where no one said.
        measured: Where these are measured if not in the patient: "detector" or "film".
        sides: Which side of the patient is where; None where no one said.
    """

    aspect: float = 1.0
    spacing: tuple[float, float] | None = None
    measured: str = ""
    sides: Sides | None = None

    def __post_init__(self) -> None:
        """Check the shape of a pixel."""
        if not 1 / LONGEST <= self.aspect <= LONGEST:
            raise UnreadableImage(f"expected pixels at most {LONGEST} times as long as wide")

    def resized(
        self, shape: tuple[int, int], size: tuple[int, int] | None, *, keep_aspect: bool
    ) -> Grid:
        """The grid of the image that a slice (h, w) is read as; see `read_picture`."""
        if size is None:
            return self
        # The size of the whole image before it is resized, in pixels of the slice.
        square = squared(shape, self.aspect) if keep_aspect else shape
        whole = padded(square, size, keep_aspect)
        pixel = [n / m * k / s for n, m, k, s in zip(shape, square, whole, size, strict=True)]
        spacing = self.spacing and (self.spacing[0] * pixel[0], self.spacing[1] * pixel[1])
        return Grid(1.0, spacing, self.measured, self.sides)


def squared(shape: tuple[int, int], aspect: float) -> tuple[int, int]:
    """The size (h, w) at which the pixels of a slice are square and none is lost."""
    h, w = shape
    return (round(h * aspect), w) if aspect > 1 else (h, round(w / aspect))


def sides_of(across: np.ndarray, down: np.ndarray) -> Sides:
    """Letters for the directions in which columns and rows count up, in left, posterior, head.

    Reference:
        DICOM PS3.3 C.7.6.1.1.1 (Patient Orientation) and C.7.6.2.1.1.
    """
    return Sides(*(_letters(d) for d in (-across, across, -down, down)))


def _letters(direction: np.ndarray) -> str:
    cosines = direction / np.linalg.norm(direction)
    order = np.argsort(-np.abs(cosines), kind="stable")
    return "".join(
        "LPH"[i] if cosines[i] > 0 else "RAF"[i] for i in order if abs(cosines[i]) > OBLIQUE
    )


def grid_of_dicom(get: Callable[[str, str], Any]) -> Grid:
    """The grid of a frame.

    Args:
        get: Value of an attribute by its keyword and that of the functional group where it may
            stand; None where there is none.

    Raises:
        UnreadableImage: A pixel is far too long.

    Reference:
        DICOM PS3.3 C.7.6.2.1.1 (Image Position and Orientation), C.7.6.3.1.7 (Pixel Aspect Ratio)
        and 10.7 (Basic Pixel Spacing Calibration).
    """
    detector = _positive(get("ImagerPixelSpacing", "FramePixelDataPropertiesSequence"))
    sizes = {
        "": _positive(get("PixelSpacing", "PixelMeasuresSequence")),
        "detector": detector,
        "film": _positive(get("NominalScannedPixelSpacing", "")),
    }
    measured = next((where for where, size in sizes.items() if size), "")
    spacing = sizes[measured]
    if spacing is not None and spacing == detector:  # not corrected for where the patient stands
        measured = "detector"
    ratio = spacing or _positive(get("PixelAspectRatio", "")) or (1.0, 1.0)
    grid = Grid(ratio[0] / ratio[1], spacing, measured)

    cosines = _numbers(get("ImageOrientationPatient", "PlaneOrientationSequence"), 6)
    human = get("AnatomicalOrientationType", "") in (None, "", "BIPED")
    if cosines is None:
        terms = [str(term) for term in np.atleast_1d(get("PatientOrientation", "") or [])]
        if human and len(terms) == 2 and all(re.fullmatch("[LRAPHF]{1,3}", t) for t in terms):
            opposite = [term.translate(str.maketrans("LRAPHF", "RLPAFH")) for term in terms]
            return replace(grid, sides=Sides(opposite[0], terms[0], opposite[1], terms[1]))
        return grid
    across, down = cosines.reshape(2, 3)
    if not np.allclose([across @ across, down @ down, across @ down], [1, 1, 0], atol=0.01):
        return grid
    return replace(grid, sides=sides_of(across, down)) if human else grid


def along_normal(orientation: Any, position: Any) -> float | None:
    """How far a slice lies along its normal, in millimetres; None where its file does not say."""
    cosines, place = _numbers(orientation, 6), _numbers(position, 3)
    if cosines is None or place is None:
        return None
    across, down = cosines.reshape(2, 3)
    return float(np.cross(across, down) @ place)


def _numbers(value: Any, count: int) -> np.ndarray | None:
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return None
    return found if found.shape == (count,) and np.isfinite(found).all() else None


def _positive(value: Any) -> tuple[float, float] | None:
    pair = _numbers(value, 2)
    return (float(pair[0]), float(pair[1])) if pair is not None and (pair > 0).all() else None
