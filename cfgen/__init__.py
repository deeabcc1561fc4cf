"""cfgen: the smallest plausible change to an image that changes a model's mind."""

import os

# Before torch reads it: beside another job on the same cores, threads that spin take many times as
# long. What the environment says stays.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from cfgen._version import __version__
from cfgen.checkpoints import Checkpoint, load_checkpoint
from cfgen.classifiers import Classifier, decision
from cfgen.criterion import Criterion, Flip, Hold
from cfgen.directions import (
    DIRECTIONS,
    Confined,
    Direction,
    Gradient,
    Guided,
    MinimalNorm,
    NaturalGradient,
    Smoothed,
    Translation,
)
from cfgen.diverse import diverse
from cfgen.explain import explain
from cfgen.problem import Problem
from cfgen.result import Counterfactual, Status
from cfgen.searches import FirstCrossing, Search

__all__ = [
    "DIRECTIONS",
    "Checkpoint",
    "Classifier",
    "Confined",
    "Counterfactual",
    "Criterion",
    "Direction",
    "FirstCrossing",
    "Flip",
    "Gradient",
    "Guided",
    "Hold",
    "MinimalNorm",
    "NaturalGradient",
    "Problem",
    "Search",
    "Smoothed",
    "Status",
    "Translation",
    "__version__",
    "decision",
    "diverse",
    "explain",
    "load_checkpoint",
]
