"""Reading images: files to tensors, folders to items; medical files in and out."""

from cfgen.data.decode import UnreadableImage
from cfgen.data.folder import ImageFolder, Item
from cfgen.data.mask import read_item_mask
from cfgen.data.picture import read_picture
from cfgen.data.read import read_image, read_mask
from cfgen.data.window import Picture, Window

__all__ = [
    "ImageFolder",
    "Item",
    "Picture",
    "UnreadableImage",
    "Window",
    "read_image",
    "read_item_mask",
    "read_mask",
    "read_picture",
]
