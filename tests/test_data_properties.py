"""Properties of image reading: whatever a file holds, pixels in [0, 1] or one known exception."""

import functools
import io

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cfgen.data import ImageFolder, UnreadableImage, read_image, read_mask

MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I", "F"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
    "JPEG": ["L", "RGB", "CMYK"],
    "NPY": ["?", "u1", "u2", ">u2", "f2", "f4", "f8"],
}
KINDS = [(kind, mode) for kind, modes in MODES.items() for mode in modes]

prop = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
sides = st.integers(1, 64)


@functools.cache
def encoded(kind, mode, height, width, compressed=False):
    """The bytes of a valid file of noise."""
    rng = np.random.default_rng([height, width])
    stream = io.BytesIO()
    noise = rng.integers(0, 256, (height, width, 8), dtype=np.uint8)
    if kind == "NPY":
        full = {"?": 1, "u1": 255, "u2": 65535, ">u2": 65535}.get(mode, 1)
        np.save(stream, (rng.random((height, width)) * full).astype(mode))
    else:
        if mode == "F":
            image = Image.fromarray(rng.random((height, width), dtype=np.float32))
        elif mode == "I":
            image = Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.int32))
        elif mode == "1":
            image = Image.fromarray(noise[..., 0] > 127)
        else:
            bytes_each = 2 if mode.startswith("I;16") else len(Image.new(mode, (1, 1)).getbands())
            image = Image.frombytes(mode, (width, height), noise[..., :bytes_each].tobytes())
            if mode == "P":
                image.putpalette(noise.tobytes()[:768].ljust(768, b"\7"))
        options = {"compression": "tiff_adobe_deflate"} if compressed else {}
        image.save(stream, kind, **options)
    return stream.getvalue()


def assert_image(image, shape):
    assert image.shape == shape
    assert image.dtype == torch.float32
    assert image.isfinite().all()
    assert image.min() >= 0 and image.max() <= 1


@prop
@given(
    kind=st.sampled_from(KINDS),
    shape=st.tuples(sides, sides),
    size=st.none() | st.tuples(sides, sides),
    channels=st.sampled_from([1, 3]),
    keep_aspect=st.booleans(),
)
def test_any_image_has_the_wanted_shape(tmp_path, kind, shape, size, channels, keep_aspect):
    path = tmp_path / "image"
    path.write_bytes(encoded(*kind, *shape))
    image = read_image(path, channels=channels, size=size, keep_aspect=keep_aspect)
    assert_image(image, (channels, *(size or shape)))
    mask = read_mask(path, size, keep_aspect=keep_aspect)
    assert mask.shape == (size or shape)
    assert mask.dtype == torch.bool


@prop
@given(
    shape=st.tuples(sides, sides),
    file=st.sampled_from(
        [("PNG", "L", 255), ("PNG", "I;16", 65535), ("TIFF", "I;16B", 65535), ("BMP", "L", 255)]
    ),
)
def test_native_size_is_exact(tmp_path, shape, file):
    kind, mode, full = file
    path = tmp_path / "image"
    path.write_bytes(encoded(kind, mode, *shape))
    with Image.open(path) as raw:
        levels = torch.from_numpy(np.array(raw).astype(np.float32))
    for channels in (1, 3):
        image = read_image(path, channels=channels, size=shape)
        assert torch.equal(image, (levels / full).expand(channels, -1, -1))


@prop
@given(pixel=st.integers(0, 255), shape=st.tuples(sides, sides), size=st.tuples(sides, sides))
def test_a_flat_image_stays_flat_and_padding_is_no_brighter(tmp_path, pixel, shape, size):
    path = tmp_path / "image.npy"
    np.save(path, np.full(shape, pixel, dtype=np.uint8))
    stretched = read_image(path, channels=1, size=size, keep_aspect=False)
    torch.testing.assert_close(stretched, torch.full_like(stretched, pixel / 255))
    padded = read_image(path, channels=1, size=size)
    assert padded.max() <= pixel / 255 + 1e-6


def read_or_refuse(path):
    """True where the file reads; the only other way out is one line without a path."""
    try:
        image = read_image(path, channels=3)
    except UnreadableImage as error:
        message = str(error)
        assert message and "\n" not in message
        assert str(path.parent) not in message and "object at 0x" not in message
        return False
    assert_image(image, (3, *image.shape[1:]))
    return True


STARTS = [
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"II*\0",
    b"MM\0*",
    b"BM",
    b"\x93NUMPY\1\0",
]


@prop
@given(start=st.sampled_from(STARTS), noise=st.binary(max_size=300))
def test_noise_is_refused(tmp_path, start, noise):
    path = tmp_path / "noise.png"
    path.write_bytes(start + noise)
    read_or_refuse(path)


@settings(prop, max_examples=150)
@given(kind=st.sampled_from(KINDS), compressed=st.booleans(), cut=st.floats(0, 1))
def test_truncated_files(tmp_path, kind, compressed, cut):
    data = encoded(*kind, 24, 17, compressed and kind[0] == "TIFF")
    path = tmp_path / "cut.png"
    path.write_bytes(data[: int(cut * (len(data) - 1))])
    read = read_or_refuse(path)
    if cut < 0.5:
        assert not read


@settings(prop, max_examples=250)
@given(
    kind=st.sampled_from(KINDS),
    compressed=st.booleans(),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
    spread=st.sampled_from([60, 300, None]),
)
def test_damaged_files(tmp_path, kind, compressed, changes, spread):
    """Bytes changed anywhere, or in the header alone, where it hurts."""
    data = bytearray(encoded(*kind, 24, 17, compressed and kind[0] == "TIFF"))
    last = min(spread or len(data), len(data)) - 1
    for where, value in changes:
        data[int(where * last)] = value
    path = tmp_path / "damaged.png"
    path.write_bytes(data)
    read_or_refuse(path)


names = st.text("aB_.é ", min_size=1, max_size=3).filter(lambda name: name.strip(". ") == name)


@prop
@given(
    files=st.lists(
        st.tuples(st.lists(names, max_size=2), names, st.sampled_from([".png", ".PNG", ".npy"])),
        min_size=1,
        max_size=12,
    )
)
def test_stems_are_unique_folder_names(tmp_path, files):
    rows = dict.fromkeys("/".join([*folders, stem]) + suffix for folders, stem, suffix in files)
    (tmp_path / "labels.csv").write_text("\n".join(["file", *rows]), encoding="utf-8")
    stems = [item.stem for item in ImageFolder(tmp_path)]
    assert len({stem.casefold() for stem in stems}) == len(rows)
    for stem in stems:
        assert stem == stem.strip(" .") and stem and "/" not in stem


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_every_kind_is_valid_to_begin_with(tmp_path, kind):
    path = tmp_path / "image"
    path.write_bytes(encoded(*kind, 24, 17))
    assert read_or_refuse(path)
