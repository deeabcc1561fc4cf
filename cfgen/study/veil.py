"""The contents of a page, so packed that the source of the file tells nothing about them.

All pages of a study have the same length and look like noise: no word, no picture and no size in
the file tells an arm or an order. The page undoes it when it is shown (``unveil`` in page.js), so
this is no secret from somebody who writes a program for it. It need not be: what the packed page
holds is what the reader sees in a moment, and the truth is not in it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np


def pack(words: dict[str, Any], pictures: Sequence[bytes]) -> bytes:
    """A line of JSON that ends with the sizes of the pictures, then the pictures."""
    head = json.dumps(words | {"sizes": [len(picture) for picture in pictures]})
    return b"\n".join([head.encode(), b"".join(pictures)])


def veil(packed: bytes, name: str, length: int) -> str:
    """Pad to ``length`` bytes and add the keystream of the page's name; base64.

    Args:
        packed: At most ``length`` bytes.
        name: Eight hexadecimal digits.
        length: The same for all pages of a study.
    """
    padded = np.frombuffer(packed.ljust(length, b"\0"), dtype=np.uint8)
    return base64.b64encode((padded ^ keystream(int(name, 16), length)).tobytes()).decode()


def keystream(seed: int, length: int) -> np.ndarray:
    """Bytes of MurmurHash3's finaliser of a counter that starts at a 32-bit seed.

    Reference: Appleby (2011), MurmurHash3, the function fmix32.
    """
    h = np.uint32(seed) + np.arange(-(-length // 4), dtype=np.uint32) * np.uint32(0x9E3779B9)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return h.astype("<u4").view(np.uint8)[:length]
