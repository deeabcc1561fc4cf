"""The page a run leaves behind, for clinicians."""

from cfgen.data.difference import difference_limit, difference_overlay
from cfgen.gallery.write import write_gallery

__all__ = ["difference_limit", "difference_overlay", "write_gallery"]
