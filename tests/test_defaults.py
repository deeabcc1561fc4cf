"""The settings that the figures of README and docs were measured with.

Who changes one of them measures again. What each setting does is tested beside its method.
"""

import inspect

import pytest

from cfgen.directions import (
    Guided,
    MinimalNorm,
    NaturalGradient,
    Smoothed,
    Translation,
    guided,
    minimal_norm,
)
from cfgen.diverse import diverse
from cfgen.plausibility import sketch
from cfgen.priors import LatentFlow
from cfgen.searches import FirstCrossing, first_crossing

DEFAULTS = {
    FirstCrossing: {"first": 0.5, "ratio": 0.5, "limit": 64.0, "tol": 5e-3},
    MinimalNorm: {"steps": 36, "parallel": 0.98, "look": 8},
    NaturalGradient: {"steps": 8, "damping": 0.01},
    Smoothed: {
        "samples": 4,
        "noise": 0.15,
        "degrees": 5.0,
        "shift": 0.02,
        "brightness": 0.05,
        "seed": 0,
    },
    Translation: {"seed": 0, "guidance": (6.0, 10.0), "shrink": 0.3},
    Guided: {
        "seed": 0,
        "steps": 40,
        "noise": 0.3,
        "momentum": 0.5,
        "reach": 0.1,
        "augment": guided.VIEWS,
        "rounds": 8,
        "shrink": 0.05,
    },
    LatentFlow.sample: {"steps": 30, "guidance": 4.0},
    LatentFlow.edit: {"guidance": 4.0, "start": 0.8, "steps": 12},
    diverse: {"k": 3, "search": None},
    sketch: {"width": 512, "seed": 0},
}
CONSTANTS = {
    first_crossing: {"BOUND": 1e6, "TINY": 1e-12, "BEND": 0.01},
    guided: {"OVER": 0.05, "GOAL": 0.3},
    minimal_norm: {
        "START": 0.5,
        "CLIMB": 0.05,
        "TURN": 0.15,
        "BACK": 0.2,
        "MEMORY": 3,
        "PATIENCE": 6,
        "SHORTER": 1.5,
        "NEAR": (1, 30, 0.04),
        "WIDE": (8, 40, 0.1),
    },
}


@pytest.mark.parametrize("of", DEFAULTS, ids=lambda of: of.__qualname__)
def test_defaults_are_as_measured(of):
    parameters = inspect.signature(of).parameters.values()
    assert {p.name: p.default for p in parameters if p.default is not p.empty} == DEFAULTS[of]


@pytest.mark.parametrize("of", CONSTANTS, ids=lambda of: of.__name__)
def test_constants_are_as_measured(of):
    assert {name: getattr(of, name) for name in CONSTANTS[of]} == CONSTANTS[of]
