"""Reading and writing images: formats, depths, colour, damage."""

from __future__ import annotations

import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import random_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from emma_core.errors import ImageError
from emma_core.images import (
    encode_png,
    luma,
    narrow_range,
    pad_reflect,
    read_grey,
    read_image,
    replace_luma,
    to_8bit,
    write_image,
)

EIGHT_BIT = np.random.default_rng(0).integers(0, 256, (20, 31, 3), np.uint8)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("form", "suffix"), [("PNG", "png"), ("BMP", "bmp"), ("TIFF", "tif"), ("WEBP", "webp")])
def test_lossless_colour_formats_are_read_exactly(tmp_path, form, suffix):
    options = {"lossless": True} if form == "WEBP" else {}
    path = write(tmp_path / f"a.{suffix}", encoded(Image.fromarray(EIGHT_BIT), form, **options))
    image = read_image(path)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(to_8bit(image), EIGHT_BIT)


def test_jpeg_is_read_closely(tmp_path):
    smooth = to_8bit(random_image(1, (64, 48)))
    path = write(tmp_path / "a.jpg", encoded(Image.fromarray(smooth), "JPEG", quality=95))
    assert np.abs(to_8bit(read_image(path)).astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3)])
def test_16_bit_keeps_its_depth(tmp_path, suffix, shape):
    values = np.random.default_rng(1).integers(0, 65536, shape).astype(np.uint16)
    ok, data = cv2.imencode(suffix, values[..., ::-1] if values.ndim == 3 else values)
    assert ok
    image = read_image(write(tmp_path / f"a{suffix}", data.tobytes()))
    np.testing.assert_allclose(image, values / 65535, atol=1e-6)


def test_grey_rgba_palette_bilevel(tmp_path):
    grey, rgb = EIGHT_BIT[..., 0], Image.fromarray(EIGHT_BIT)
    alpha = Image.fromarray(np.dstack([EIGHT_BIT, np.full(grey.shape, 7, np.uint8)]))
    palette = rgb.quantize(16)
    read = {
        name: read_image(write(tmp_path / f"{name}.png", encoded(image, "PNG")))
        for name, image in {
            "grey": Image.fromarray(grey),
            "rgba": alpha,
            "palette": palette,
            "bilevel": Image.fromarray(grey > 99),
            "grey_alpha": Image.fromarray(grey).convert("LA"),
        }.items()
    }
    np.testing.assert_array_equal(to_8bit(read["grey"]), grey)
    np.testing.assert_array_equal(to_8bit(read["grey_alpha"]), grey)
    np.testing.assert_array_equal(to_8bit(read["rgba"]), EIGHT_BIT)
    np.testing.assert_array_equal(to_8bit(read["palette"]), np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(read["bilevel"], (grey > 99).astype(np.float32))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.zeros((40, 64), np.uint8)
    upright[:8, :16] = 255  # a mark in the top left corner of the upright image
    undo = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.T,
        6: np.rot90,
        7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    path = write(tmp_path / "a.jpg", encoded(stored, "JPEG", quality=100, exif=exif))
    image = read_image(path)
    assert image.shape == upright.shape
    assert np.abs(image - upright / 255).max() < 0.1


def test_luma_is_bt601_full_range():
    corners = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]], np.float32)
    np.testing.assert_allclose(luma(corners), [[0.299, 0.587, 0.114, 1]], atol=1e-6)


def test_luma_agrees_with_opencv():
    ours = np.rint(luma(EIGHT_BIT.astype(np.float32) / 255) * 255)
    theirs = np.rint(cv2.cvtColor(EIGHT_BIT.astype(np.float32), cv2.COLOR_RGB2GRAY))
    np.testing.assert_array_equal(ours, theirs)


sides = st.integers(1, 9)
images = arrays(np.float32, st.tuples(sides, sides, st.just(3)), elements=st.floats(0, 1, width=32))


@given(images)
def test_colour_round_trip(image):
    np.testing.assert_allclose(replace_luma(image, luma(image)), image, atol=1e-5)


@given(images, st.floats(-0.3, 0.3))
def test_new_luma_arrives_and_chroma_stays(image, shift):
    muted = 0.4 + 0.2 * image  # far from the edges of the RGB cube, so nothing is clipped
    wanted = luma(muted) + np.float32(shift)
    changed = replace_luma(muted, wanted)
    np.testing.assert_allclose(luma(changed), wanted, atol=1e-5)
    ycrcb = [cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2YCrCb) for picture in (muted, changed)]
    np.testing.assert_allclose(ycrcb[0][..., 1:], ycrcb[1][..., 1:], atol=1e-4)


@given(images, st.floats(0, 1, width=32))
def test_colours_that_leave_the_cube_are_clipped(image, level):
    changed = replace_luma(image, np.full(image.shape[:2], level, np.float32))
    assert 0 <= changed.min() <= changed.max() <= 1


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 8, 16, 32]), st.integers(1, 20))
def test_padding_reflects_and_keeps_the_image(height, width, multiple, minimum):
    image = random_image(3, (height, width))
    padded = pad_reflect(image, multiple, minimum)
    np.testing.assert_array_equal(padded[:height, :width], image)
    for before, after in zip(image.shape, padded.shape, strict=True):
        assert after % multiple == 0
        assert after >= minimum
        assert after < max(minimum, before) + multiple
    if padded.shape[1] > width > 1:
        np.testing.assert_array_equal(padded[:height, width], image[:, width - 2])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays(np.uint8, st.one_of(st.tuples(sides, sides), st.tuples(sides, sides, st.just(3)))))
def test_png_is_exact(tmp_path, pixels):
    path = tmp_path / "a.png"
    write_image(path, pixels.astype(np.float32) / 255)
    np.testing.assert_array_equal(to_8bit(read_image(path)), pixels)
    assert np.asarray(Image.open(path)).tolist() == pixels.tolist()  # noqa: TID251 - an independent reader


def test_out_of_range_is_clipped_not_wrapped():
    assert to_8bit(np.array([[-1.0, 0.5, 2.0]], np.float32)).tolist() == [[0, 128, 255]]


def test_halves_are_rounded_to_even():
    halves = np.array([[0.5, 1.5, 2.5, 126.5]], np.float32) / 255
    assert (halves * 255).tolist() == [[0.5, 1.5, 2.5, 126.5]]
    assert to_8bit(halves).tolist() == [[0, 2, 2, 126]]


def test_only_png_is_written(tmp_path):
    with pytest.raises(ImageError, match=r"\.png"):
        write_image(tmp_path / "a.jpg", np.zeros((2, 2), np.float32))


@pytest.mark.skipif(os.name == "nt", reason="the umask is of Unix")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_who_may_read_a_file_is_for_the_umask_to_say(tmp_path, umask, mode):
    """Slices of patients are written so, too."""
    before = os.umask(umask)
    try:
        write_image(tmp_path / "a.png", np.zeros((2, 2), np.float32))
    finally:
        os.umask(before)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == mode


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_image(tmp_path / "a.png", np.zeros((2, 2), np.float32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"hello", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "image"),
        (encode_png(random_image(0, (30, 30)))[:300], "damaged or truncated"),
        (encoded(Image.fromarray(EIGHT_BIT), "JPEG")[:500], "damaged or truncated"),
        (encoded(Image.fromarray(EIGHT_BIT), "GIF"), "not an image"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "floating-point"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, data, says):
    path = write(tmp_path / "bad.png", data)
    with pytest.raises(ImageError, match=says) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_a_small_file_that_claims_a_huge_image_is_refused(tmp_path):
    data = bytearray(encode_png(random_image(0, (8, 8))))
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    with pytest.raises(ImageError):
        read_image(write(tmp_path / "bomb.png", bytes(data)))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_corruption_is_read_or_refused_never_worse(tmp_path, data):
    form = data.draw(st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "WEBP"]))
    content = bytearray(encoded(Image.fromarray(EIGHT_BIT), form))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = write(tmp_path / "a.bin", bytes(content[: data.draw(st.integers(1, len(content)))]))
    try:
        image = read_grey(path)
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert image.ndim == 2
        assert np.isfinite(image).all()
        assert 0 <= image.min() <= image.max() <= 1


def test_16_bit_grey_with_alpha_keeps_its_depth(tmp_path):
    import struct
    import zlib

    values = np.random.default_rng(1).integers(0, 65536, (6, 5)).astype(">u2")
    rows = b"".join(b"\0" + np.dstack([line, np.full_like(line, 65535)]).astype(">u2").tobytes() for line in values)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 5, 6, 16, 4, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    image = read_image(write(tmp_path / "a.png", data))
    np.testing.assert_allclose(image, values.astype(np.float64) / 65535, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_that_counts_from_white_is_not_inverted(tmp_path, dtype):
    values = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (6, 5)).astype(dtype)
    stored = np.iinfo(dtype).max - values
    path = write(tmp_path / "a.tif", encoded(Image.fromarray(stored), "TIFF", tiffinfo={262: 0}))
    if dtype == np.uint8:  # Pillow turns the values as it writes them
        stored = np.asarray(Image.open(path))  # noqa: TID251 - an independent reader
        np.testing.assert_array_equal(to_8bit(read_image(path)), stored)
    else:
        np.testing.assert_allclose(read_image(path), values / 65535, atol=1e-6)


@pytest.mark.parametrize(("form", "suffix"), [("TIFF", "tif"), ("WEBP", "webp"), ("PNG", "png")])
def test_several_pages_or_frames_are_refused(tmp_path, form, suffix):
    frames = [Image.fromarray(EIGHT_BIT), Image.fromarray(255 - EIGHT_BIT)]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="holds 2 pages or frames"):
        read_image(write(tmp_path / f"a.{suffix}", data))


def test_a_jpeg_with_a_preview_after_it_is_its_first_frame(tmp_path):
    data = encoded(Image.fromarray(EIGHT_BIT), "JPEG", quality=95)
    pair = encoded(
        Image.fromarray(EIGHT_BIT), "MPO", save_all=True, append_images=[Image.fromarray(255 - EIGHT_BIT)], quality=95
    )
    np.testing.assert_array_equal(
        read_image(write(tmp_path / "a.jpg", pair)), read_image(write(tmp_path / "b.jpg", data))
    )


@pytest.mark.parametrize(
    ("low", "high", "dtype", "narrow"),
    [
        (21000, 22500, np.uint16, True),  # a thermal camera of 14 bits
        (0, 4095, np.uint16, True),
        (0, 65535, np.uint16, False),
        (3, 12, np.uint8, False),  # a dark scene
        (700, 740, np.uint16, True),
        (0, 16383, np.uint16, True),
        (0, 20000, np.uint16, False),
        (20, 80, np.uint8, False),
    ],
)
def test_16_bit_images_that_use_little_of_their_range_are_told(tmp_path, low, high, dtype, narrow):
    ramp = np.linspace(low, high, 64 * 64).astype(dtype).reshape(64, 64)
    cv2.imwrite(str(tmp_path / "a.png"), ramp)
    used = narrow_range(read_image(tmp_path / "a.png"))
    assert used == (pytest.approx((high - low) / 65535, rel=1e-3) if narrow else None)
