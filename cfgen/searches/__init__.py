"""Searches: how the step lam is found, given only the margin along a direction."""

from cfgen.searches.base import Phi, Root, Search
from cfgen.searches.first_crossing import FirstCrossing

__all__ = ["FirstCrossing", "Phi", "Root", "Search"]
