"""Opening pictures that others named: inside their folder, really pictures, and no larger than memory allows."""

import hashlib
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from PIL import Image

from data.errors import UserError

MAX_PIXELS: Final = 64_000_000
"""Above this a file is taken for a decompression bomb; it is refused by its header, before anything is decoded."""
MAX_BYTES: Final = 256_000_000
Fit = Callable[[int, int], tuple[int, int]]
"""(width, height) -> the size to store a picture in, e.g. BAGEL's rule."""
FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


@dataclass(frozen=True)
class PictureError:
    """Why a picture was refused: a stable `code` and one sentence for people."""

    code: str
    reason: str


@dataclass(frozen=True)
class Facts:
    """What a row-level check of a picture needs to know."""

    width: int
    height: int
    sha256: str


def unsafe_path(path: str) -> str | None:
    """Why a path may not be followed below a data folder, or None when it may. Only relative POSIX paths pass."""
    if not path.strip() or any(ord(character) < 32 for character in path):
        return "it is empty or holds control characters"
    if path.startswith(("/", "~")) or re.match(r"^[A-Za-z]:", path):
        return "it is absolute"
    if "://" in path:
        return "it is an address, not a path"
    if "\\" in path:
        return "it holds a backslash"
    if ".." in PurePosixPath(path).parts or PurePosixPath(path) == PurePosixPath("."):
        return "it leaves the data folder"
    return None


def locate(folder: Path, relative: str) -> Path | PictureError:
    """The file behind a relative path, links resolved, or why there is none."""
    if problem := unsafe_path(relative):
        return PictureError("unsafe_path", f"image path {relative!r}: {problem}")
    try:
        path = (folder / relative).resolve()
        inside = path.is_relative_to(folder.resolve())
        there = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # name too long, NUL, link loop
        return PictureError("missing_image", f"image {relative!r} cannot be looked up: {error}")
    if not inside:
        return PictureError("unsafe_path", f"image path {relative!r} leaves {folder} through a link")
    return path if there else PictureError("missing_image", f"there is no image {relative!r} in {folder}")


def inspect(content: bytes, name: str) -> Facts | PictureError:
    """Decode a picture completely and measure it. Never raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    return _bomb(name, image.width, image.height)
                image.load()
                return Facts(image.width, image.height, hashlib.sha256(content).hexdigest())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError):
        return _bomb(name)
    # A hostile file may raise anything from a decoder: struct.error, SyntaxError, IndexError, zlib.error.
    except Exception as error:
        return PictureError("not_an_image", f"{name} is not a readable image: {' '.join(str(error).split())[:120]}")


def inspect_file(folder: Path, relative: str) -> Facts | PictureError:
    """Find, read, decode and measure a picture below a folder. Never raises."""
    path = locate(folder, relative)
    if isinstance(path, PictureError):
        return path
    try:
        if path.stat().st_size > MAX_BYTES:
            return PictureError("too_large", f"{relative} has more than {MAX_BYTES:,} bytes")
        return inspect(path.read_bytes(), relative)
    except OSError as error:
        return PictureError("missing_image", f"image {relative!r} cannot be read: {error.strerror}")


def load(folder: Path, relative: str) -> Image.Image:
    """A picture as RGB, transparency put on white as BAGEL does.

    Raises:
        UserError: unsafe path, missing file, no picture, or too large.
    """
    facts = inspect_file(folder, relative)
    if isinstance(facts, PictureError):
        raise UserError(facts.reason, "Correct the path, or replace the image")
    with Image.open(folder / relative, formats=FORMATS) as image:
        return on_white(image)


def on_white(image: Image.Image) -> Image.Image:
    """RGB without transparency."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB")


def as_png(image: Image.Image, fit: Fit | None = None) -> bytes:
    """PNG bytes, in the size that `fit(width, height)` gives (bicubic), or as it is."""
    size = fit(*image.size) if fit else image.size
    buffer = io.BytesIO()
    (image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)).save(buffer, "PNG")
    return buffer.getvalue()


def _bomb(name: str, width: int = 0, height: int = 0) -> PictureError:
    size = f"{width}x{height} pixels" if width else "too many pixels"
    return PictureError("decompression_bomb", f"{name} unfolds to {size}; the limit is {MAX_PIXELS:,}")
