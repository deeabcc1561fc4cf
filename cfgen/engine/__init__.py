"""A whole data set: settings, task, where it runs, and the run folder that it leaves behind."""

from cfgen.engine.run import Engine
from cfgen.engine.settings import Settings

__all__ = ["Engine", "Settings"]
