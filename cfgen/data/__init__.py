"""Reading images: files to tensors, folders to items."""

from cfgen.data.decode import UnreadableImage
from cfgen.data.folder import ImageFolder, Item
from cfgen.data.read import read_image, read_mask

__all__ = ["ImageFolder", "Item", "UnreadableImage", "read_image", "read_mask"]
