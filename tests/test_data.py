"""Reading image files and folders, against slow twins that were written from the formats."""

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cfgen.data import ImageFolder, UnreadableImage, read_image, read_mask, read_picture
from cfgen.engine.run_folder import write_record

RNG = np.random.default_rng(0)
SHARED = Path(__file__).parents[2] / "shared" / "data" / "lgg-flair-128"


def random_pixels(bits, channels=None, shape=(5, 4)):
    shape = shape if channels is None else (*shape, channels)
    return RNG.integers(0, 2**bits, shape, dtype=np.uint16 if bits > 8 else np.uint8)


def twin(pixels, full, channels):
    """Alpha over black, then grey or RGB, pixel by pixel, in float64."""
    pixels = np.asarray(pixels, dtype=np.float64).reshape(*np.shape(pixels)[:2], -1)
    out = np.zeros((channels, *pixels.shape[:2]))
    for i in range(pixels.shape[0]):
        for j in range(pixels.shape[1]):
            *colour, alpha = [*(pixels[i, j] / full), 1.0]
            if len(colour) in (2, 4):
                alpha = colour.pop()
            colour = [c * alpha for c in colour]
            if len(colour) == 1:
                colour = colour * 3
            r, g, b = colour
            out[:, i, j] = [0.299 * r + 0.587 * g + 0.114 * b] if channels == 1 else colour
    return torch.from_numpy(out)


def assert_reads(path, pixels, full):
    """The file holds these pixels, as grey and as RGB."""
    for channels in (1, 3):
        image = read_image(path, channels=channels)
        assert image.dtype == torch.float32
        assert image.is_contiguous()
        expected = twin(pixels, full, channels)
        assert image.shape == expected.shape
        torch.testing.assert_close(image.double(), expected, rtol=0, atol=1.2e-7)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows, width, bits, colour, extra=b""):
    """A PNG from the bytes of its rows."""
    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = chunk(b"IHDR", head) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def png16(pixels, colour, extra=b""):
    return png([row.astype(">u2").tobytes() for row in pixels], pixels.shape[1], 16, colour, extra)


def tiff(body, shape, bits, *, order="<", photometric=1, deflate=False, tags=()):
    """A TIFF of one strip; tags are (number, value), all of them SHORT."""
    height, width, samples = shape
    body = zlib.compress(body) if deflate else body
    fields = dict(tags) | {256: width, 257: height, 259: 8 if deflate else 1, 262: photometric}
    fields |= {258: bits, 273: 400, 277: samples, 278: height, 279: len(body)}
    entries, after = b"", b""
    for tag, value in sorted(fields.items()):
        if tag == 258 and samples > 2:
            entries += struct.pack(f"{order}HHII", tag, 3, samples, 300)
            after = struct.pack(f"{order}{samples}H", *[bits] * samples)
        elif tag in (273, 279):
            entries += struct.pack(f"{order}HHII", tag, 4, 1, value)
        else:
            entries += struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    head += struct.pack(f"{order}H", len(fields)) + entries + b"\0\0\0\0"
    return (head.ljust(300, b"\0") + after).ljust(400, b"\0") + body


def save_png(path, pixels):
    Image.fromarray(pixels).save(path)


def reason(path, **options):
    with pytest.raises(UnreadableImage) as caught:
        read_image(path, **{"channels": 1, **options})
    return str(caught.value)


PALETTE = random_pixels(8, 3, shape=(16, 16)).reshape(256, 3)
LOSSLESS = {
    ".png": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    ".tif": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B", "I", "F"],
    ".bmp": ["1", "L", "P", "RGB", "RGBA"],
}


@pytest.mark.parametrize(
    ("suffix", "mode"), [(s, m) for s, modes in LOSSLESS.items() for m in modes]
)
def test_every_lossless_format_and_mode(tmp_path, suffix, mode):
    path = tmp_path / f"image{suffix}"
    bands = {"LA": 2, "RGB": 3, "RGBA": 4}.get(mode)
    pixels, full = random_pixels(8, bands), 255
    if mode == "1":
        pixels, full = pixels > 127, 1
        Image.fromarray(pixels).save(path)
    elif mode == "P":
        image = Image.fromarray(pixels).convert("P")
        image.putpalette(PALETTE.tobytes())
        image.putdata(pixels.ravel().tolist())
        image.save(path)
        pixels = PALETTE[pixels]
    elif mode == "F":
        pixels, full = RNG.random((5, 4), dtype=np.float32), 1
        Image.fromarray(pixels).save(path)
    elif mode.startswith("I"):
        pixels, full = random_pixels(16), 65535
        dtype = {"I": "<i4", "I;16": "<u2", "I;16B": ">u2"}[mode]
        Image.frombytes(mode, (4, 5), pixels.astype(dtype).tobytes()).save(path)
    else:
        Image.fromarray(pixels, mode="LA" if bands == 2 else None).save(path)
        if (suffix, mode) == (".bmp", "RGBA"):  # this header knows no alpha: the byte is padding
            pixels = pixels[..., :3]
    assert_reads(path, pixels, full)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg(tmp_path, mode):
    path = tmp_path / "image.jpg"
    y, x = np.mgrid[0:16, 0:24]
    smooth = np.stack([8 * x, 12 * y, 255 - 8 * x, 0 * x], axis=-1).astype(np.uint8)
    pixels = smooth[..., 0] if mode == "L" else smooth[..., : len(mode)]
    Image.fromarray(pixels, mode=mode).save(path, quality=100, subsampling=0)
    colour = 255.0 - pixels[..., :3] if mode == "CMYK" else pixels
    error = read_image(path, channels=3).double() - twin(colour, 255, 3)
    assert error.abs().max() <= 4 / 255


@pytest.mark.parametrize("bits", [2, 4])
def test_png_of_few_bits(tmp_path, bits):
    path = tmp_path / "image.png"
    pixels = random_pixels(bits, shape=(5, 8))
    rows = [
        bytes(
            sum(int(v) << (8 - bits * (k + 1)) for k, v in enumerate(row[i : i + 8 // bits]))
            for i in range(0, 8, 8 // bits)
        )
        for row in pixels
    ]
    path.write_bytes(png(rows, 8, bits, 0))
    assert_reads(path, pixels, 2**bits - 1)
    path.write_bytes(png(rows, 8, bits, 0, chunk(b"tRNS", struct.pack(">H", 3))))
    assert_reads(path, np.where(pixels == 3, 0, pixels), 2**bits - 1)


@pytest.mark.parametrize(("colour", "bands"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_of_16_bits(tmp_path, colour, bands):
    path = tmp_path / "image.png"
    pixels = random_pixels(16, bands)
    path.write_bytes(png16(pixels, colour))
    assert_reads(path, pixels, 65535)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_tiff_of_16_bits(tmp_path, bands, order, deflate):
    path = tmp_path / "image.tif"
    pixels = random_pixels(16, bands)
    kind = {1: 1, 3: 2, 4: 2}[bands]
    tags = [(338, 2)] if bands == 4 else []
    body = pixels.astype(f"{order}u2").tobytes()
    data = tiff(body, pixels.shape, 16, order=order, photometric=kind, deflate=deflate, tags=tags)
    path.write_bytes(data)
    assert_reads(path, pixels, 65535)
    if bands == 4:  # a fourth sample that is no alpha
        path.write_bytes(
            data.replace(
                struct.pack(f"{order}HHIH", 338, 3, 1, 2), struct.pack(f"{order}HHIH", 338, 3, 1, 0)
            )
        )
        assert_reads(path, pixels[..., :3], 65535)


def test_tiff_where_white_is_zero(tmp_path):
    path = tmp_path / "image.tif"
    for bits, dtype in ((8, "u1"), (16, "<u2")):
        pixels = random_pixels(bits, 1)
        path.write_bytes(tiff(pixels.astype(dtype).tobytes(), (5, 4, 1), bits, photometric=0))
        assert_reads(path, 2**bits - 1 - pixels.astype(float), 2**bits - 1)
    pixels = RNG.random((5, 4, 1), dtype=np.float32)
    path.write_bytes(tiff(pixels.tobytes(), pixels.shape, 32, photometric=0, tags=[(339, 3)]))
    assert_reads(path, 1 - pixels, 1)


def test_12_bits_packed_and_in_16(tmp_path):
    path = tmp_path / "image.tif"
    pixels = random_pixels(12, 1)
    pairs = pixels.reshape(-1, 2).tolist()
    packed = b"".join(((p << 12) | q).to_bytes(3, "big") for p, q in pairs)
    path.write_bytes(tiff(packed, (5, 4, 1), 12))
    assert_reads(path, pixels, 4095)
    Image.fromarray(pixels[..., 0]).save(path)
    assert_reads(path, pixels, 65535)


def test_bmp_of_16_bits(tmp_path):
    path = tmp_path / "image.bmp"
    levels = random_pixels(5, 3, shape=(5, 4)).astype(int)
    words = (levels[..., 0] << 10) | (levels[..., 1] << 5) | levels[..., 2]
    body = words[::-1].astype("<u2").tobytes()
    info = struct.pack("<IiiHHIIiiII", 40, 4, 5, 1, 16, 0, len(body), 0, 0, 0, 0)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54) + info + body)
    error = read_image(path, channels=3).double() - twin(levels, 31, 3)
    assert error.abs().max() < 1 / 255  # Pillow hands 5 bits over as 8, rounded down


def test_bmp_with_declared_alpha(tmp_path):
    path = tmp_path / "image.bmp"
    pixels = random_pixels(8, 4)
    masks = struct.pack("<IIII", 0xFF, 0xFF00, 0xFF0000, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 108, 4, 5, 1, 32, 3, 80, 0, 0, 0, 0) + masks
    info = info.ljust(108, b"\0")
    head = b"BM" + struct.pack("<IHHI", 14 + 108 + 80, 0, 0, 14 + 108)
    path.write_bytes(head + info + pixels[::-1].tobytes())
    assert_reads(path, pixels, 255)


def test_transparent_colour_is_black(tmp_path):
    path = tmp_path / "image.png"
    grey, rgb = random_pixels(8), random_pixels(8, 3)
    Image.fromarray(grey).save(path, transparency=int(grey[1, 2]))
    assert_reads(path, np.where(grey == grey[1, 2], 0, grey), 255)
    Image.fromarray(rgb).save(path, transparency=tuple(rgb[1, 2].tolist()))
    expected = rgb.copy()
    expected[1, 2] = 0
    assert_reads(path, expected, 255)
    for bands, colour in ((1, 0), (3, 2)):
        deep = random_pixels(16, bands)
        path.write_bytes(png16(deep, colour, chunk(b"tRNS", deep[1, 2].astype(">u2").tobytes())))
        deep[1, 2] = 0
        assert_reads(path, deep, 65535)


@pytest.mark.parametrize("alphas", [bytes([255, 0, 255]), bytes([10, 200, 0])])
def test_transparent_palette(tmp_path, alphas):
    path = tmp_path / "image.png"
    index = random_pixels(8) % 3
    image = Image.fromarray(index).convert("P")
    image.putpalette(PALETTE[:3].tobytes())
    image.putdata(index.ravel().tolist())
    image.save(path, transparency=alphas)
    table = np.concatenate([PALETTE[:3], np.frombuffer(alphas, np.uint8)[:, None]], axis=1)
    assert_reads(path, table[index], 255)


@pytest.mark.parametrize(
    ("dtype", "full"),
    [("?", 1), ("u1", 255), ("<u2", 65535), (">u2", 65535), ("f2", 1), ("<f4", 1), (">f8", 1)],
)
@pytest.mark.parametrize("layout", ["HW", "HWC", "CHW"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, dtype, full, layout, order):
    path = tmp_path / "image.npy"
    for bands in {"HW": [1], "HWC": [1, 3, 4], "CHW": [1, 3]}[layout]:
        pixels = (RNG.random((5, 6, bands)) * full).round(0 if full > 1 else 6).astype(dtype)
        stored = pixels[..., 0] if layout == "HW" else pixels
        stored = np.moveaxis(pixels, -1, 0) if layout == "CHW" else stored
        np.save(path, np.asarray(stored, order=order))
        assert_reads(path, pixels, full)


def oriented(pixels, tag):
    """What a viewer shows: row and column 0 of the file lie where the EXIF table says."""
    h, w = pixels.shape[:2]
    source = {
        1: lambda i, j: (i, j),
        2: lambda i, j: (i, w - 1 - j),
        3: lambda i, j: (h - 1 - i, w - 1 - j),
        4: lambda i, j: (h - 1 - i, j),
        5: lambda i, j: (j, i),
        6: lambda i, j: (h - 1 - j, i),
        7: lambda i, j: (h - 1 - j, w - 1 - i),
        8: lambda i, j: (j, w - 1 - i),
    }[tag]
    shape = (h, w) if tag < 5 else (w, h)
    return np.array([[pixels[source(i, j)] for j in range(shape[1])] for i in range(shape[0])])


@pytest.mark.parametrize("tag", range(1, 9))
def test_orientation(tmp_path, tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    for name, mode in (("a.png", "RGB"), ("a.tif", "L"), ("a.tif", "I;16B"), ("a.jpg", "RGB")):
        path = tmp_path / name
        pixels = random_pixels(8, 3 if mode == "RGB" else None)
        if mode == "I;16B":
            pixels = random_pixels(16)
            Image.frombytes(mode, (4, 5), pixels.astype(">u2").tobytes()).save(path, exif=exif)
        else:
            Image.fromarray(pixels).save(path, exif=exif)
        if name == "a.jpg":
            pixels = np.asarray(Image.open(path))
        assert_reads(path, oriented(pixels, tag), 65535 if mode == "I;16B" else 255)
    deep = random_pixels(16, 3)
    path = tmp_path / "deep.png"
    path.write_bytes(png16(deep, 2, chunk(b"eXIf", exif.tobytes()[6:])))
    assert_reads(path, oriented(deep, tag), 65535)
    path = tmp_path / "deep.tif"
    path.write_bytes(tiff(deep.tobytes(), deep.shape, 16, photometric=2, tags=[(274, tag)]))
    assert_reads(path, oriented(deep, tag), 65535)


def test_every_level_is_exact(tmp_path):
    path = tmp_path / "image.png"
    for levels, dtype in ((256, np.uint8), (65536, np.uint16)):
        side = int(levels**0.5)
        pixels = np.arange(levels, dtype=dtype).reshape(side, side)
        Image.fromarray(pixels).save(path)
        expected = torch.arange(levels).float().reshape(1, side, side) / (levels - 1)
        assert torch.equal(read_image(path, channels=1, size=(side, side)), expected)
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    Image.fromarray(grey).save(path)
    expected = torch.arange(256).float().reshape(1, 16, 16) / 255
    assert torch.equal(read_image(path, channels=1, size=(16, 16)), expected)


@pytest.mark.parametrize("shape", [(40, 30), (7, 30), (30, 7), (1, 9)])
@pytest.mark.parametrize("size", [(16, 16), (12, 20), (50, 45)])
@pytest.mark.parametrize("keep_aspect", [True, False])
def test_pad_then_resize(tmp_path, shape, size, keep_aspect):
    """Pillow's own antialiased bilinear filter, on a canvas painted by hand."""
    path = tmp_path / "image.npy"
    pixels = RNG.random(shape, dtype=np.float32)
    np.save(path, pixels)
    canvas = pixels
    if keep_aspect:
        h, w = shape
        wide = shape[1] * size[0] > shape[0] * size[1]
        h, w = (round(w * size[0] / size[1]), w) if wide else (h, round(h * size[1] / size[0]))
        canvas = np.zeros((h, w), dtype=np.float32)
        top, left = (h - shape[0]) // 2, (w - shape[1]) // 2
        canvas[top : top + shape[0], left : left + shape[1]] = pixels
    expected = Image.fromarray(canvas).resize(size[::-1], Image.Resampling.BILINEAR)
    image = read_image(path, channels=1, size=size, keep_aspect=keep_aspect)
    torch.testing.assert_close(image[0], torch.from_numpy(np.array(expected)), rtol=0, atol=5e-6)


def test_mask_lies_on_the_image(tmp_path):
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    pixels = np.zeros((24, 40), dtype=np.uint8)
    pixels[6:18, 8:24] = 255
    Image.fromarray(pixels).save(image)
    Image.fromarray(pixels // 255).save(mask)  # 0 and 1 in 8 bit is a mask as well
    for size in (None, (24, 40), (20, 20), (80, 80)):
        for keep in (True, False):
            shown = read_image(image, channels=1, size=size, keep_aspect=keep)[0]
            found = read_mask(mask, size, keep_aspect=keep)
            assert found.dtype == torch.bool
            assert found.shape == shown.shape
            assert found.any()
            inner, outer = shown > 0.99, shown > 0.01
            assert (found | ~inner).all() and (outer | ~found).all()


def test_mask_takes_the_pixel_under_the_centre(tmp_path):
    path = tmp_path / "mask.npy"
    pixels = RNG.random((9, 7)) > 0.5
    np.save(path, pixels)
    for h, w in ((4, 5), (23, 30), (9, 7)):
        expected = [
            [pixels[int((i + 0.5) * 9 / h), int((j + 0.5) * 7 / w)] for j in range(w)]
            for i in range(h)
        ]
        assert read_mask(path, (h, w), keep_aspect=False).tolist() == expected


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "I;16"])
def test_blocks_of_a_large_picture_are_seamless(tmp_path, monkeypatch, mode):
    path = tmp_path / "image.png"
    pixels = random_pixels(8, {"L": 2, "RGB": 3, "LA": 2, "I;16": 2}[mode], shape=(61, 47))
    Image.frombytes(mode, (47 if mode != "L" else 94, 61), pixels.tobytes()).save(path)
    settings: list[dict[str, Any]] = [
        {},
        {"size": (20, 24)},
        {"size": (20, 24), "keep_aspect": False},
    ]
    for options in settings:
        whole = [read_image(path, channels=c, **options) for c in (1, 3)]
        with monkeypatch.context() as patch:
            patch.setattr("cfgen.data.read.BLOCK", 200)
            blocks = [read_image(path, channels=c, **options) for c in (1, 3)]
        assert all(torch.equal(a, b) for a, b in zip(whole, blocks, strict=True))


def test_a_large_picture_is_never_in_memory_as_floats(tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (3000, 3000), (10, 20, 30)).save(path)
    tracemalloc.start()
    try:
        image = read_image(path, channels=1, size=(32, 32))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    grey = (0.299 * 10 + 0.587 * 20 + 0.114 * 30) / 255
    torch.testing.assert_close(image, torch.full((1, 32, 32), grey))
    assert peak < 3000 * 3000 * 3 * 2  # bytes; as floats a channel alone has four times the pixels


def test_limit_on_pixels(tmp_path):
    for name in ("image.png", "image.npy"):
        path = tmp_path / name
        (np.save if name.endswith("npy") else save_png)(path, random_pixels(8, shape=(20, 30)))
        assert read_image(path, channels=1, max_pixels=600).shape == (1, 20, 30)
        expected = "expected at most 599 pixels (--max-pixels), got 20 x 30"
        assert reason(path, max_pixels=599) == expected
        with pytest.raises(UnreadableImage) as caught:
            read_mask(path, max_pixels=599)
        assert str(caught.value) == expected
        assert read_image(path, channels=1, size=(8, 8), max_pixels=900).shape == (1, 8, 8)
        assert reason(path, size=(8, 8), max_pixels=899) == (
            "expected at most 899 pixels after padding (--max-pixels), got 30 x 30"
        )


def test_a_limit_above_that_of_pillow(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    save_png(path, random_pixels(8, shape=(20, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(path, channels=1).shape == (1, 20, 30)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_pages_of_a_tiff(tmp_path):
    path = tmp_path / "stack.tif"
    for mode, bits in (("L", 8), ("I;16", 16), ("RGB", 8)):
        stack = [random_pixels(bits, 3 if mode == "RGB" else None) for _ in range(3)]
        first, *others = (Image.fromarray(pixels) for pixels in stack)
        first.save(path, save_all=True, append_images=others)
        for page, pixels in enumerate(stack):
            image = read_image(path, channels=3, page=page)
            expected = twin(pixels, 2**bits - 1, 3)
            torch.testing.assert_close(image.double(), expected, rtol=0, atol=1.2e-7)
        assert read_mask(path, page=1).tolist() == (stack[1].reshape(5, 4, -1) > 0).any(-1).tolist()
    assert reason(path, page=3) == "expected a page below 3, got 3"
    assert reason(path) == "expected a single image, got 3 pages or frames"
    first.save(path, save_all=True, append_images=[first.reduce(2)])
    assert reason(path, page=1) == "expected pages of one size, got several"


def test_an_imagej_stack_behind_a_single_header(tmp_path):
    path = tmp_path / "stack.tif"
    stack = random_pixels(16, shape=(3, 5, 4))
    first = saved(Image.fromarray(stack[0]), "TIFF", tiffinfo={270: "ImageJ=1.53t\nimages=3\n"})
    path.write_bytes(first + stack[1:].tobytes())
    assert first.endswith(stack[0].tobytes())
    for page in range(3):
        expected = twin(stack[page], 65535, 1)
        image = read_image(path, channels=1, page=page)
        torch.testing.assert_close(image.double(), expected, rtol=0, atol=1.2e-7)
    assert reason(path) == "expected a single image, got 3 pages or frames"
    path.write_bytes(path.read_bytes()[:-1])
    assert reason(path, page=0) == "expected 3 pages, one for each slice, got 1"


def test_masks_need_no_scale(tmp_path):
    path = tmp_path / "mask.npy"
    for dtype in ("i1", "<i2", "<i8", "u8", "f4"):
        pixels = RNG.integers(0, 3, (5, 4)).astype(dtype) * (-1 if dtype[-2] != "u" else 1)
        np.save(path, pixels)
        assert read_mask(path).tolist() == (pixels != 0).tolist()
        assert not dtype.startswith("f") or reason(path).startswith("expected float pixels in")
    Image.fromarray(np.array([[-5, 0], [70000, 1]], np.int32)).save(tmp_path / "mask.tif")
    assert read_mask(tmp_path / "mask.tif").tolist() == [[True, False], [True, True]]
    blue = np.zeros((2, 2, 4), np.uint8)
    blue[0, :, 2], blue[:, 0, 3] = 1, 255  # transparent is black
    Image.fromarray(blue).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[True, False], [False, False]]


def test_a_jpeg_mask_has_no_halo(tmp_path):
    marked = np.zeros((40, 80), bool)
    marked[5:16, 59:75] = True
    for level in (255, 60):
        for name in ("mask.jpg", "mask.tif"):
            options = {"compression": "jpeg"} if name.endswith("tif") else {}
            pixels = np.where(marked, level, 0).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name, quality=75, **options)
            assert np.array_equal(read_mask(tmp_path / name).numpy(), marked)
    Image.new("L", (8, 8)).save(tmp_path / "empty.jpg")
    assert not read_mask(tmp_path / "empty.jpg").any()


def test_phone_photo_with_previews(tmp_path):
    path = tmp_path / "image.jpg"
    photo, preview = (Image.new("L", (8, 8), level) for level in (200, 10))
    photo.save(path, format="MPO", save_all=True, append_images=[preview])
    assert_reads(path, np.full((8, 8), 200), 255)


def saved(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def stored(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


NOISE = Image.fromarray(random_pixels(8, shape=(64, 64)))
PAGES = {"save_all": True, "append_images": [Image.new("L", (64, 64))]}
RGB16 = random_pixels(16, 3).tobytes()
KIND = "header is truncated, damaged or of a kind that is not supported"
BOTH = "which is both"
REFUSED = {
    "empty": (b"", "file is empty"),
    "text": (b"this is not a picture\n", "not an image"),
    "gif": (saved(NOISE, "GIF"), "not an image"),
    "png cut": (saved(NOISE)[:2000], "truncated"),
    "jpeg cut": (saved(NOISE, "JPEG")[:1500], "truncated"),
    "bmp cut": (saved(NOISE, "BMP")[:2000], "truncated"),
    "npy cut": (stored(np.zeros((9, 9)))[:200], "truncated"),
    "png header cut": (saved(NOISE)[:20], "truncated"),
    "png start cut": (saved(NOISE)[:9], KIND),
    "bmp header cut": (saved(NOISE, "BMP")[:10], KIND),
    "tiff header cut": (saved(NOISE, "TIFF")[:100], "truncated"),
    "tiff of float64": (tiff(bytes(160), (5, 4, 1), 64, tags=[(339, 3)]), KIND),
    "png 0 x 0": (png([], 0, 8, 0), "expected an image with pixels, got 0 x 0"),
    "png 2 x 0": (png([b"", b""], 0, 8, 0), "expected an image with pixels, got 2 x 0"),
    "bmp 0 x 0": (
        b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, 0, 0, 1, 24) + bytes(24),
        "expected an image with pixels, got 0 x 0",
    ),
    "npy 0 x 0": (stored(np.zeros((0, 0))), "expected an image with pixels, got 0 x 0"),
    "npy 0 x 5 x 3": (stored(np.zeros((0, 5, 3))), "expected an image with pixels, got 0 x 5 x 3"),
    "png bomb": (
        png([b""] * 3, 9000, 8, 0).replace(
            chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 3, 8, 0, 0, 0, 0)),
            chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 12000, 8, 0, 0, 0, 0)),
        ),
        "expected at most 100000000 pixels (--max-pixels), got 12000 x 9000",
    ),
    "png big bomb": (
        png([b""], 2**31 - 1, 8, 0),
        "expected at most 100000000 pixels (--max-pixels), got 1 x 2147483647",
    ),
    "imagej": (
        saved(NOISE, "TIFF", tiffinfo={270: "ImageJ=1.53t\nimages=7\nslices=7\n"}),
        "expected 7 pages, one for each slice, got 1",
    ),
    "pages": (saved(NOISE, "TIFF", **PAGES), "expected a single image, got 2 pages or frames"),
    "frames": (saved(NOISE, **PAGES), "expected a single image, got 2 pages or frames"),
    "nan": (stored(np.full((4, 4), np.nan)), "expected finite pixels, found NaN"),
    "inf": (stored(np.full((4, 4), np.inf)), "expected finite pixels, found inf"),
    "range": (
        stored(np.array([[-3.0, 250.0]])),
        "expected float pixels in [0, 1], got [-3, 250]",
    ),
    "tiff range": (
        saved(Image.new("F", (4, 4), 255.0), "TIFF"),
        "expected float pixels in [0, 1], got [255, 255]",
    ),
    "tiff nan": (
        saved(Image.new("F", (4, 4), float("nan")), "TIFF"),
        "expected finite pixels, found NaN",
    ),
    "tiff below": (
        saved(Image.new("I", (4, 4), -1), "TIFF"),
        "expected integers in [0, 65535], got [-1, -1]",
    ),
    "tiff above": (
        saved(Image.new("I", (4, 4), 70000), "TIFF"),
        "expected integers in [0, 65535], got [70000, 70000]",
    ),
    "tiff signed": (
        tiff(bytes(20), (5, 4, 1), 8, tags=[(339, 2)]),
        "expected unsigned pixels, got signed 8 bit",
    ),
    "tiff planes": (
        tiff(RGB16, (5, 4, 3), 16, photometric=2, tags=[(284, 2)]),
        "expected 16-bit colour pixel by pixel, got separate planes",
    ),
    "tiff planes deflated": (
        tiff(RGB16, (5, 4, 3), 16, photometric=2, deflate=True, tags=[(284, 2)]),
        "expected 16-bit colour pixel by pixel, got separate planes",
    ),
    "tiff cmyk": (
        tiff(bytes(160), (5, 4, 4), 16, photometric=5),
        "expected 16-bit pixels as grey, RGB or RGBA, got CMYK",
    ),
    "tiff lab": (
        saved(Image.new("LAB", (4, 4)), "TIFF"),
        "expected a grey, RGB, RGBA or palette image, got LAB colours",
    ),
    "npy int64": (
        stored(np.zeros((4, 4), dtype=np.int64)),
        "expected bool, uint8, uint16 or float pixels, got int64",
    ),
    "npy complex": (
        stored(np.zeros((4, 4), dtype=np.complex64)),
        "expected bool, uint8, uint16 or float pixels, got complex64",
    ),
    "npy objects": (
        stored(np.array([[None]])),
        "cannot be decoded: Object arrays cannot be loaded when allow_pickle=False",
    ),
    "npy header": (
        stored(np.zeros((4, 4))).replace(b"False", b"max  "),
        "damaged NPY header",
    ),
    "npy vector": (
        stored(np.zeros(7)),
        "expected an array (H, W), (H, W, C) or (C, H, W), got (7,)",
    ),
    "npy channels": (
        stored(np.zeros((5, 6, 7))),
        "expected 1, 3 or 4 channels last, or 1 or 3 channels first, got (5, 6, 7)",
    ),
    "npy both": (
        stored(np.zeros((3, 6, 3))),
        f"expected (H, W, C) or (C, H, W), got (3, 6, 3), {BOTH}",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path, name):
    data, expected = REFUSED[name]
    path = tmp_path / "image.png"
    path.write_bytes(data)
    assert reason(path) == expected


def test_refused_without_content(tmp_path):
    assert reason(tmp_path / "none.png") == "no such file"
    assert reason(tmp_path / "a\0b.png") == "no such file"
    assert reason(tmp_path) == "is a directory"
    np.save(tmp_path / "long.npy", np.zeros((1, 30000), dtype=np.uint8))
    assert reason(tmp_path / "long.npy", size=(224, 224)) == (
        "expected at most 100000000 pixels after padding (--max-pixels), got 30000 x 30000"
    )


def test_impossible_wishes(tmp_path):
    path = tmp_path / "image.png"
    NOISE.save(path)
    with pytest.raises(ValueError, match=r"^expected channels of 1 or 3, got 2$"):
        read_image(path, channels=2)
    with pytest.raises(ValueError, match=r"^expected a size \(H, W\) of at least \(1, 1\), got"):
        read_image(path, channels=1, size=(0, 3))


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folder_is_a_sorted_tree(tmp_path):
    touch(tmp_path, "b/two.JPG", "a.png", "b/one.tiff", "c.NPY", "b/d/x.bmp", "notes.txt")
    touch(tmp_path, ".hidden.png", ".cache/y.png", "b/.z/y.png")
    (tmp_path / "folder.png").mkdir()
    folder = ImageFolder(tmp_path)
    expected = ["a.png", "b/d/x.bmp", "b/one.tiff", "b/two.JPG", "c.NPY"]
    assert [item.file for item in folder] == expected
    assert [item.path for item in folder] == [tmp_path / file for file in expected]
    assert [item.stem for item in folder] == ["a", "x", "one", "two", "c"]
    assert {(i.label, i.mask, i.patient, i.split) for i in folder} == {(None,) * 4}
    assert len(folder) == 5
    assert [item.file for item in ImageFolder(str(tmp_path), limit=2)] == expected[:2]


def test_what_a_run_left_in_the_folder_is_no_image_of_it(tmp_path):
    left = "cases/a/x.png", "cases/a/x_cf.png", "cases/a/sweep/00.png", "cases/a/x_cf.dcm", "y.png"
    for out in ("out", "runs/first"):
        (tmp_path / out).mkdir(parents=True)
        write_record(tmp_path / out, {})
        touch(tmp_path / out, *left)
    images = ["a.png", "cases/b.png", "notes/c.png", "runs/d.png"]
    touch(tmp_path, *images, "cases/run.json", "notes/run.json")
    assert [item.file for item in ImageFolder(tmp_path)] == images
    # What is asked for by name is shown.
    for inside in (tmp_path / "out", tmp_path / "out/cases", tmp_path / "out/cases/a"):
        below = [tmp_path / "out" / file for file in left]
        expected = sorted(p.relative_to(inside).as_posix() for p in below if inside in p.parents)
        assert [i.file for i in ImageFolder(inside, keep_ids=True)] == expected
    (tmp_path / "labels.csv").write_text("file\nout/y.png\n")
    assert [item.file for item in ImageFolder(tmp_path)] == ["out/y.png"]


def test_what_is_skipped_is_counted(tmp_path):
    root = tmp_path / "in"
    touch(root, "a.png", ".b.png", ".git/c.png", "notes.txt", "d.webp", "e.gif", "f/DICOMDIR")
    touch(tmp_path, "elsewhere/deep/g.png", "h.png")
    (root / "out" / "cases").mkdir(parents=True)
    write_record(root / "out", {})
    os.mkfifo(root / "pipe.png")
    for link, target in {
        "linked.png": tmp_path / "h.png",
        "gone.png": tmp_path / "gone.png",
        "self": "self",
        "up": root,
        "to": tmp_path / "elsewhere",
        "z": tmp_path / "elsewhere/deep",
        "again": "f",
    }.items():
        (root / link).symlink_to(target)
    folder = ImageFolder(root)
    assert [item.file for item in folder] == ["a.png", "linked.png", "to/deep/g.png"]
    assert folder.skipped == {
        "hidden": 2,
        "not an image": 1,
        "image of another kind": 2,
        "DICOMDIR": 1,
        "run folder": 1,
        "not a file": 1,
        "broken link": 2,
        "link to a folder that is read": 3,
    }
    assert folder.skipped_line() == (
        "skipped: 1 DICOMDIR, 2 broken link, 2 hidden, 2 image of another kind, "
        "3 link to a folder that is read, 1 not a file, 1 not an image, 1 run folder"
    )
    (root / "labels.csv").write_text("file\na.png\n")
    assert (ImageFolder(root).skipped, ImageFolder(root).skipped_line()) == ({}, "")


def test_a_folder_that_cannot_be_opened_is_said(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "locked/b.png")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError("no")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert ImageFolder(tmp_path).skipped == {"folder that cannot be opened": 1}


def test_pages_of_a_tiff_are_items(tmp_path):
    path = tmp_path / "s.TIF"
    stack = [Image.fromarray(random_pixels(8)) for _ in range(3)]
    stack[0].save(path, save_all=True, append_images=stack[1:])
    stack[0].save(tmp_path / "one.tif")
    folder = ImageFolder(tmp_path)
    assert [(i.file, i.stem, i.kind, i.index) for i in folder] == [
        ("one.tif", "one", "picture", 0),
        *((f"s.TIF#{k}", f"s_00{k}", "picture", k) for k in range(3)),
    ]
    for item, pixels in zip(folder[1:], stack, strict=True):
        x = read_picture(item, channels=1).x
        assert torch.equal(x[0] * 255, torch.from_numpy(np.array(pixels)).float())
    cut = ImageFolder(tmp_path, slices=slice(1, 2))
    assert [item.file for item in cut] == ["one.tif", "s.TIF"]
    assert cut[1].index == 1
    assert [item.stem for item in ImageFolder(tmp_path, limit=2)] == ["one", "s_000"]


def test_the_sequence_of_items(tmp_path):
    touch(tmp_path, *(f"{name}.png" for name in "abcde"))
    folder = ImageFolder(tmp_path, limit=4)
    items = list(folder)
    assert (len(folder), len(items)) == (4, 4)
    assert folder[-1] == items[3] and folder[1:3] == tuple(items[1:3]) and items[2] in folder
    assert folder[::-1] == tuple(reversed(folder)) == tuple(items[::-1])
    for at in (4, -5):
        with pytest.raises(IndexError):
            folder[at]


def test_a_list_of_files_is_small(tmp_path):
    """Bytes an image, with labels: items are made when they are asked for."""
    rows = [f"patient_{i // 10:03d}/slice_{i:05d}.png,tumour,P{i // 10},test" for i in range(5000)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label,patient,split", *rows]))
    ImageFolder(tmp_path)  # what is kept once
    tracemalloc.start()
    try:
        folder = ImageFolder(tmp_path)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < 300 * len(folder)
    assert peak < 600 * len(folder)
    assert folder[4321].stem == "slice_04321"
    assert folder[4321].patient is folder[4320].patient


def test_names_that_are_no_utf8(tmp_path):
    files = [b"f\xfcr.png", b"f\xe4r.png", "für.png".encode(), b"\xff/f_r.png"]
    for file in files:
        path = os.fsencode(tmp_path) + b"/" + file
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(saved(NOISE))
    folder = ImageFolder(tmp_path)
    found = {os.fsencode(item.path.relative_to(tmp_path)): item for item in folder}
    assert {file: item.file for file, item in found.items()} == {
        b"f\xfcr.png": r"f\xfcr.png",
        b"f\xe4r.png": r"f\xe4r.png",
        "für.png".encode(): "für.png",
        b"\xff/f_r.png": r"\xff/f_r.png",
    }
    assert len({item.stem for item in folder}) == 4
    for item in folder:
        (item.file + item.stem).encode()
        assert read_image(item.path, channels=1).shape == (1, 64, 64)


def test_case_folders_can_be_made(tmp_path):
    """Long names, those that differ by case only, and those that a spreadsheet would run."""
    long, wide = "x" * 120, "患者影像" * 15
    files = [f"{'a' * 150}/{long}.png", f"{'b' * 150}/{long}.png"]
    files += [f"{'左' * 45}/{wide}.png", f"{'右' * 45}/{wide}.png", f"{'y' * 250}.png"]
    files += ["-1.png", "+1.png", "=1+2.png", "@x.png", "1.png", "a/S.png", "b/s.png", "c/ß.png"]
    files += ["d/SS.png"]
    (tmp_path / "labels.csv").write_text("\n".join(["file", *files]), encoding="utf-8")
    stems = [item.stem for item in ImageFolder(tmp_path)]
    for stem in stems:
        assert stem[0] not in "=+-@" and len(stem.encode()) <= 200
        (tmp_path / "cases" / stem).mkdir(parents=True)
    assert len({stem.casefold() for stem in stems}) == len(files)
    assert stems[0].startswith("a" * 150 + "_xxx") and stems[1].startswith("b" * 150 + "_xxx")
    assert stems[2].startswith("左" * 45 + "_患者影像")
    assert stems[5:] == [
        *("_1_png", "_1_png-2", "_1+2", "_x", "1", "a_S", "b_s", "c_ß", "d_SS"),
    ]
    # A name does not depend on how many files stand beside it.
    assert [item.stem for item in ImageFolder(tmp_path, limit=3)] == stems[:3]


def test_stems_do_not_collide(tmp_path):
    files = ["a/x.png", "b/x.png", "b/x.tif", "b/Y.png", "c/y.png", "a_x.png", "z.png", "d/a_x.png"]
    touch(tmp_path, *files)
    stems = {item.file: item.stem for item in ImageFolder(tmp_path)}
    assert stems == {
        "a/x.png": "a_x_png",
        "a_x.png": "a_x_png-2",
        "b/Y.png": "b_Y",
        "b/x.png": "b_x_png",
        "b/x.tif": "b_x_tif",
        "c/y.png": "c_y",
        "d/a_x.png": "d_a_x",
        "z.png": "z",
    }
    assert len({stem.casefold() for stem in stems.values()}) == len(files)


def test_labels(tmp_path):
    touch(tmp_path, "images/a.png", "images/b.png", "masks/b.png", "other.png")
    (tmp_path / "labels.csv").write_bytes(
        b"\xef\xbb\xbffile,label,mask,patient,split,slice\r\n"
        b"images/b.png, tumour ,masks/b.png,P1,test,3\r\n"
        b"\r\n,,,,,\r\n"
        b"images/a.png,,,P2,train\r\n"
        b"images/gone.png,healthy,,,test,1\r\n"
    )
    b, a, gone = ImageFolder(tmp_path)
    assert (b.file, b.label, b.patient, b.split) == ("images/b.png", "tumour", "P1", "test")
    assert (b.path, b.mask) == (tmp_path / "images/b.png", tmp_path / "masks/b.png")
    assert (a.file, a.label, a.mask, a.patient, a.split) == (
        "images/a.png",
        None,
        None,
        "P2",
        "train",
    )
    assert reason(gone.path) == "no such file"
    assert [i.stem for i in ImageFolder(tmp_path, split="test")] == ["b", "gone"]
    assert ImageFolder(tmp_path, split="test", limit=1)[:] == (b,)
    assert [item.file for item in ImageFolder(tmp_path / "images")] == ["a.png", "b.png"]


def test_labels_are_cells_of_a_csv_file(tmp_path):
    (tmp_path / "labels.csv").write_text(
        'file, label,fat,,\n"d, e.png", "x, y",0.5,,\na.png,"say ""b""","two\nlines",,\n'
    )
    assert [(item.file, item.label) for item in ImageFolder(tmp_path)] == [
        ("d, e.png", "x, y"),
        ("a.png", 'say "b"'),
    ]


def test_labels_from_elsewhere_name_files_of_the_images_folder(tmp_path):
    touch(tmp_path, "images/b.png")
    (tmp_path / "mine.csv").write_text("file,label\nb.png,tumour\n")
    (item,) = ImageFolder(tmp_path / "images", labels=tmp_path / "mine.csv")
    assert (item.path, item.label) == (tmp_path / "images/b.png", "tumour")


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("a,b\n1,2\n", {}, "expected column 'file' in labels.csv, got columns a, b"),
        (
            "file,label\nx.png,1\n",
            {"split": "test"},
            "expected column 'split' in labels.csv, got columns file, label",
        ),
        (
            "file,split\nx.png,train\ny.png,val\nz.png,train\nw.png,\n",
            {"split": "tset"},
            "expected a split of train, val, got 'tset'",
        ),
        ("file,split\nx.png,\n", {"split": ""}, "expected a split of , got ''"),
        ("file,label\n", {}, "expected rows in labels.csv, got none"),
        ("", {}, "expected column 'file' in labels.csv, got columns "),
        ("file,label\n,x\n", {}, "expected a file in every row of labels.csv, got '' (1x)"),
        (
            "file,label,split\ny.png,a,b\n\nx.png,glioma, left,test\n",
            {"split": "test"},
            "expected at most 3 cells in line 4 of labels.csv, got 4: a cell with a comma needs "
            "quotes",
        ),
        (
            'file,note\nw.png,"two\nlines"\nx.png,"open\ny.png,b\n',
            {},
            "expected labels.csv to be a CSV file, got an open quote in the row of line 4",
        ),
        (
            'file,label\nx.png,"open\ny.png,"b"\n',
            {},
            "expected labels.csv to be a CSV file, got ',' expected after '\"' in the row of "
            "line 2",
        ),
        (
            'file,label,mask\nx.png,"open\ny.png,"\n',
            {},
            "expected a label of one line in line 2 of labels.csv, got a line break: a quote may "
            "be open",
        ),
        (
            "file,label,label\nx.png,a,b\n",
            {},
            "expected each column once in labels.csv, got 'label' 2x",
        ),
        (
            "file,fat,fat\nx.png,a,b\n",
            {},
            "expected each column once in labels.csv, got 'fat' 2x",
        ),
        (
            "file\nx.png\nx.png\n",
            {},
            "expected each file once in labels.csv, got 'x.png' 2x",
        ),
    ],
)
def test_labels_refused(tmp_path, table, options, message):
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(ValueError) as caught:
        ImageFolder(tmp_path, **options)
    assert str(caught.value) == message


def test_folder_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "file.png", "empty/notes.txt")
    Path("latin.csv").write_bytes(b"file\n\xe9.png\n")
    for arguments, message in [
        ({"root": "none"}, "expected a folder of images at 'none', got no such folder"),
        ({"root": "file.png"}, "expected a folder of images at 'file.png', got a file"),
        (
            {"root": "empty"},
            "expected image files (.png .jpg .jpeg .tif .tiff .bmp .npy .dcm .dicom .ima .nii "
            ".nii.gz) in 'empty', got none; skipped: 1 not an image",
        ),
        ({"root": ".", "limit": 0}, "expected a limit of at least 1, got 0"),
        ({"root": ".", "max_pixels": 0}, "expected max_pixels of at least 1, got 0"),
        (
            {"root": ".", "split": "test"},
            "expected a labels.csv in '.' for split 'test', got none",
        ),
        (
            {"root": ".", "labels": "none.csv"},
            "expected a labels file at 'none.csv', got none",
        ),
        (
            {"root": ".", "labels": "latin.csv"},
            "expected latin.csv to be a CSV file in UTF-8, got 'utf-8' codec can't decode byte "
            "0xe9 in position 5: invalid continuation byte",
        ),
    ]:
        with pytest.raises(ValueError) as caught:
            ImageFolder(**arguments)
        assert str(caught.value) == message


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no {SHARED.name} beside the repository")
def test_lgg_flair():
    folder = ImageFolder(SHARED)
    assert len(folder) == 2602
    assert len({item.patient for item in folder}) == 82
    assert all((item.label == "tumour") == (item.mask is not None) for item in folder)
    test = ImageFolder(SHARED, split="test")
    assert len(test) == 360
    assert {item.split for item in test} == {"test"}
    assert sum(item.label == "tumour" for item in test) == 135
    assert sum(item.label == "healthy" for item in test) == 225
    assert all(item.stem == Path(item.file).stem for item in folder)
    item = next(item for item in test if item.mask)
    assert item.mask is not None
    image = read_image(item.path, channels=1, size=(128, 128))
    with Image.open(item.path) as raw:
        assert torch.equal(image[0] * 255, torch.from_numpy(np.array(raw)).float())
    with Image.open(item.mask) as raw:
        assert torch.equal(read_mask(item.mask, (128, 128)), torch.from_numpy(np.array(raw)))
