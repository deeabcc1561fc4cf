"""Encoder/generator pairs: E maps an image to a latent, G maps a latent to an image."""

from cfgen.generators.base import Generator
from cfgen.generators.diffusers import Autoencoder
from cfgen.generators.identity import Identity
from cfgen.generators.linear import Linear
from cfgen.generators.pair import Pair

__all__ = ["Autoencoder", "Generator", "Identity", "Linear", "Pair"]
