"""Images in and out: any 8- or 16-bit file to float in [0, 1], and back to an exact 8-bit PNG.

The only module that decodes or encodes image files. Inside emma-tasks an image is float32 in [0, 1], grey
``(H, W)`` or colour ``(H, W, 3)`` in RGB order. Colour is BT.601 full range (JFIF, ITU-T T.871), as the
authors of EMMA use it: luma is fused, Cb and Cr are carried over.
"""

from __future__ import annotations

import secrets
import tempfile
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from emma_core.errors import ImageError
from emma_core.files import read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    FloatImage = NDArray[np.float32]

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # BT.601 luma weights
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags
_MIN_IS_WHITE = 0  # value of the latter
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"  # the last chunk, which Pillow does not read to its end
_TEMPORARY = ".emma-"
_NARROW = 1 / 4  # of the range: all that a camera of 14 bits has
_ROUNDED = 1e-3  # [8-bit levels] that float32 may be off; those of 16 bits are 1/257 of one apart


def read_image(path: Path) -> FloatImage:
    """Read an image file.

    PNG, JPEG (of an MPO the first image), BMP, TIFF and WebP; 8 or 16 bits; grey, RGB, RGBA (alpha is dropped) or
    palette. The EXIF orientation is applied. 16-bit values are divided by 65535, 8-bit values by 255.

    Args:
        path: the file.

    Returns:
        float32 in [0, 1], (H, W) for a grey file and (H, W, 3) for a colour file.

    Raises:
        ImageError: the file is missing, empty, truncated, too large or not such an image.
    """
    data = _read_bytes(Path(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's notes on odd metadata; damage raises
            return _decode(data)
    except Image.DecompressionBombError:
        # A file of a few kilobytes can claim terabytes; Pillow looks before it decodes.
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise ImageError(f"{path}: too large, more than {limit} megapixels") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image (expected PNG, JPEG, BMP, TIFF or WebP)") from None
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    except MemoryError:
        raise ImageError(f"{path}: not enough memory to decode it") from None
    except Exception as error:  # a decoder fed with damaged bytes may raise anything
        raise ImageError(f"{path}: damaged or truncated image ({_one_line(error)})") from None


def read_grey(path: Path) -> FloatImage:
    """Read an image file as luma, float32 in [0, 1], (H, W); see :func:`read_image`."""
    return luma(read_image(path))


def narrow_range(image: FloatImage) -> float | None:
    """Return the share of [0, 1] that an image of a 16-bit file uses, if that is no more than 14 bits have.

    Cameras of 12 or 14 bits write such files. Values that 8 bits do not have tell them from images of dark scenes.
    """
    used = float(image.max() - image.min())
    if used >= _NARROW:
        return None
    levels = image * 255
    return used if np.abs(levels - np.rint(levels)).max() > _ROUNDED else None


def luma(image: FloatImage) -> FloatImage:
    """Return the BT.601 luma Y = 0.299 R + 0.587 G + 0.114 B of an image in [0, 1], as (H, W)."""
    if image.ndim == 2:
        return image
    weighted: FloatImage = image @ np.array([_RED, _GREEN, _BLUE], np.float32)
    return weighted


def replace_luma(colour: FloatImage, new_luma: FloatImage) -> FloatImage:
    """Give an image another luma and keep its Cb and Cr.

    Args:
        colour: (H, W, 3) or (H, W), in [0, 1]; a grey image has no chroma to keep.
        new_luma: (H, W), in [0, 1].

    Returns:
        An image of the shape of ``colour`` in [0, 1]; what leaves the RGB cube is clipped.
    """
    if colour.ndim == 2:
        return new_luma
    y = luma(colour)
    # R = Y + 1.402 Cr and B = Y + 1.772 Cb, so equal chroma means that R - Y and B - Y stay as they are.
    red = new_luma + (colour[..., 0] - y)
    blue = new_luma + (colour[..., 2] - y)
    green = (new_luma - _RED * red - _BLUE * blue) / _GREEN
    changed: FloatImage = np.clip(np.stack([red, green, blue], axis=-1), 0.0, 1.0)
    return changed


def size_text(shape: Sequence[int]) -> str:
    """Spell the size of an image of shape (H, W, ...): ``640 x 480``, width first."""
    return f"{shape[1]} x {shape[0]}"


def to_8bit(image: FloatImage) -> NDArray[np.uint8]:
    """Round an image in [0, 1] to 0..255, half to even, clipping what lies outside."""
    levels: NDArray[np.uint8] = np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    return levels


def encode_png(image: FloatImage) -> bytes:
    """Encode an image in [0, 1], (H, W) or (H, W, 3), as an 8-bit PNG; equal images give equal bytes."""
    import cv2  # writes PNG four times faster than Pillow, for 10 % larger files

    done, encoded = cv2.imencode(".png", _swap_red_blue(to_8bit(image)))
    if not done:
        raise ImageError(f"cannot be written as PNG: shape {image.shape}, expected (H, W) or (H, W, 3)")
    return encoded.tobytes()


def encode_preview(image: FloatImage, longer_side: int) -> tuple[bytes, int, int]:
    """Encode an image in [0, 1] for a page: WebP, shrunk to a longer side [pixels] if it is larger.

    Returns:
        The bytes, and the width and height of the picture [pixels].
    """
    picture = Image.fromarray(to_8bit(image)).convert("RGB")
    picture.thumbnail((longer_side, longer_side), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    picture.save(buffer, "WEBP", quality=84, method=4)  # noise and dark gradients of night images survive
    return buffer.getvalue(), picture.width, picture.height


def write_image(path: Path, image: FloatImage) -> None:
    """Write an image in [0, 1] as an 8-bit PNG, whole or not at all.

    Args:
        path: the file; its folder is made if need be, its name must end in ``.png``.
        image: (H, W) or (H, W, 3).

    Raises:
        ImageError: the name has another ending.
        OSError: the file cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise ImageError(f"{path}: fused images are written as PNG; expected a name that ends in .png")
    write_atomic(path, encode_png(image))


def write_atomic(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file under a temporary name beside its place and rename it, so that no half file is ever seen.

    Args:
        path: the file.
        data: its content, whole or piece by piece.

    Raises:
        OSError: it cannot be written; the error names the file, not the temporary one.
    """
    try:
        _write_and_rename(path, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def require_writable(path: Path) -> None:
    """Make sure, before long work, that files can be made where one is to be written in the end; make no folder.

    Raises:
        OSError: they cannot; the error names the file.
    """
    try:
        with tempfile.TemporaryFile(dir=next(folder for folder in path.parents if folder.exists())):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _write_and_rename(path: Path, data: bytes | Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as stream:  # not by tempfile, which knows nothing of the umask
            stream.writelines([data] if isinstance(data, bytes) else data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_temporary_files(folder: Path) -> None:
    """Remove what a killed :func:`write_atomic` left in a folder; nobody may be writing there."""
    for leftover in folder.glob(f"{_TEMPORARY}*.tmp"):
        leftover.unlink(missing_ok=True)


def pad_reflect(image: FloatImage, multiple: int, minimum: int = 1) -> FloatImage:
    """Extend an image to the right and below by reflection, without resizing it.

    Args:
        image: (H, W), any H, W >= 1; reflection repeats where the image is smaller than the border.
        multiple: both sides of the result are multiples of this.
        minimum: and at least this long.

    Returns:
        (H', W'); crop it back with ``[:H, :W]``.
    """
    targets = [-(-max(side, minimum) // multiple) * multiple for side in image.shape]
    border = [(0, target - side) for target, side in zip(targets, image.shape, strict=True)]
    return np.pad(image, border, mode="reflect") if any(after for _, after in border) else image


def _read_bytes(path: Path) -> bytes:
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise ImageError(f"{path}: the file is empty")
    return data


def _decode(data: bytes) -> FloatImage:
    with Image.open(BytesIO(data), formats=("PNG", "JPEG", "BMP", "TIFF", "WEBP")) as opened:
        # A JPEG with a preview or a second view after it (MPO) shows its first frame everywhere.
        if (frames := getattr(opened, "n_frames", 1)) > 1 and opened.format != "MPO":
            raise ImageError(f"holds {frames} pages or frames; expected one image")
        deep = _what_pillow_would_flatten(opened, data)
        inverted = _bits(opened) == (16,) and opened.tag_v2.get(_PHOTOMETRIC) == _MIN_IS_WHITE  # type: ignore[attr-defined]
        oriented = ImageOps.exif_transpose(opened)  # decodes, so truncated files raise here
    image = _decode_16bit(data, deep) if deep else _to_float(oriented)
    return 1 - image if inverted else image


def _to_float(image: Image.Image) -> FloatImage:
    if image.mode.startswith("I"):  # 16-bit grey: "I;16" and its byte orders, "I" in older Pillow
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError("32-bit values; expected an 8- or 16-bit image")
        return (values / 65535.0).astype(np.float32)
    if image.mode == "F":
        raise ImageError("floating-point values; expected an 8- or 16-bit image")
    grey = image.mode in {"1", "L", "LA", "La"}
    return np.asarray(image.convert("L" if grey else "RGB"), np.float32) / np.float32(255)


def _bits(image: Image.Image) -> tuple[int, ...]:
    """Return the bits of each sample of a TIFF file, and nothing for other formats."""
    return tuple(image.tag_v2.get(_BITS_PER_SAMPLE, ())) if image.format == "TIFF" else ()  # type: ignore[attr-defined]


def _what_pillow_would_flatten(image: Image.Image, data: bytes) -> Literal["grey", "colour", None]:
    """Name the kinds of 16-bit files that Pillow silently reduces to 8 bits."""
    if image.format == "PNG" and data[24] == 16:  # IHDR: bit depth, then colour type
        kinds: dict[int, Literal["grey", "colour"]] = {2: "colour", 4: "grey", 6: "colour"}
        return kinds.get(data[25])
    bits = _bits(image)
    if any(depth not in {1, 2, 4, 8, 16} for depth in bits) and image.mode != "F":
        raise ImageError(f"{max(bits)} bits a sample; expected 8 or 16")
    return "colour" if len(bits) >= 3 and max(bits) == 16 else None


def _decode_16bit(data: bytes, kind: Literal["grey", "colour"]) -> FloatImage:
    import cv2

    with Image.open(BytesIO(data)) as opened:
        opened.verify()  # else the decoder would tell of what comes after the pixels, on standard error
        if opened.format == "PNG" and _PNG_END not in data:
            raise ImageError("truncated after its pixels")
    wanted = cv2.IMREAD_COLOR if kind == "colour" else cv2.IMREAD_GRAYSCALE
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | wanted)
    if image is None or image.dtype != np.uint16:
        raise ImageError("a 16-bit file that the decoder does not understand")
    return (_swap_red_blue(image) / 65535.0).astype(np.float32)


def _swap_red_blue(image: NDArray[Any]) -> NDArray[Any]:
    """Turn RGB into the BGR of OpenCV or back; grey stays."""
    return np.ascontiguousarray(image[..., ::-1]) if image.ndim == 3 else image


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
