"""A session as one picture: the source and every turn side by side, with captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH = 192  # pixels of one picture of the strip
MARGIN = 8
LINE = 14  # pixels of a line of the caption
COLUMNS = 30  # characters of a line of the caption


def draw_strip(images: Sequence[np.ndarray], captions: Sequence[str]) -> Image.Image:
    """Draw pictures (H, W, 3) uint8 in a row, each over its caption; small ones are enlarged without smoothing."""
    height = WIDTH * images[0].shape[0] // images[0].shape[1]
    lines = [textwrap.wrap(caption, COLUMNS) for caption in captions]
    total = height + LINE * max(len(caption) for caption in lines) + 3 * MARGIN
    strip = Image.new("RGB", ((WIDTH + MARGIN) * len(images) + MARGIN, total), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size=12)
    for i, (image, caption) in enumerate(zip(images, lines, strict=True)):
        left = MARGIN + i * (WIDTH + MARGIN)
        filter_ = Image.Resampling.NEAREST if image.shape[1] < WIDTH else Image.Resampling.LANCZOS
        strip.paste(Image.fromarray(image).resize((WIDTH, height), filter_), (left, MARGIN))
        for k, line in enumerate(caption):
            draw.text((left, height + 2 * MARGIN + k * LINE), line, fill="black", font=font)
    return strip
