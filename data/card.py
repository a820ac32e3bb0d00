"""The data card: what a built folder contains, counted while it is written, as JSON, as Markdown and as a picture."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from data.readback import margins
from data.render import Pixels
from data.scenes import World
from data.schema import Session

GRID_SESSIONS = 12
"""Sessions pictured."""
SIDE = 144
"""Width of a picture in the grid, in pixels."""


class Card:
    """Counts over sessions, added one at a time; memory does not grow with their number."""

    def __init__(self, name: str, world: World, parameters: dict[str, Any]) -> None:
        self._name, self._world, self._parameters = name, world, parameters
        self._counts: dict[str, dict[str, Counter[str]]] = {}
        self._shown: list[tuple[Session, list[Pixels]]] = []

    def add(self, session: Session, images: list[Pixels]) -> None:
        """Count one session; `images` has the source and one picture per turn."""
        counts = self._counts.setdefault(session.split, {name: Counter() for name in _TABLES})
        counts["track"][str(session.track)] += 1
        counts["turns"][str(len(session.turns))] += 1
        for number, turn in enumerate(session.turns, 1):
            counts["edit type"][turn.task_type.value] += 1
            needs = turn.needs or ()
            counts["need"].update(need.name for need in needs)
            counts["distance"].update([str(max(number - need.stated for need in needs))] if needs else ["none"])
        if session.scene:
            counts["held out"].update(tag.split(":")[0] for tag in session.scene.held_out)
        if len(self._shown) < GRID_SESSIONS:
            self._shown.append((session, images))

    def as_dict(self) -> dict[str, Any]:
        """The card as plain values."""
        splits = {
            split: {
                "sessions": sum(counts["track"].values()),
                "turn_count": sum(counts["edit type"].values()),
                **{name: dict(sorted(counter.items())) for name, counter in counts.items()},
            }
            for split, counts in self._counts.items()
        }
        world = {"name": self._world.name, "image_size": self._world.image_size, "margins": margins(self._world)}
        return {"format": 1, "name": self._name, "world": world, "parameters": self._parameters, "splits": splits}

    def write(self, folder: Path) -> None:
        """`card.json`, `card.md` and `grid.png` in a folder."""
        data = self.as_dict()
        (folder / "card.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        (folder / "card.md").write_text(markdown(data), encoding="utf-8")
        if self._shown:
            grid(self._shown).save(folder / "grid.png", compress_level=4)


_TABLES = ("track", "turns", "edit type", "need", "distance", "held out")


def markdown(card: dict[str, Any]) -> str:
    """The card as a page."""
    lines = [f"# Data card: {card['name']}", "", f"World `{card['world']['name']}`, {card['world']['image_size']} px."]
    margin = ", ".join(f"{name} {value}" for name, value in card["world"]["margins"].items())
    lines += [
        "",
        f"A reading cannot change below these errors of a cell (RMS of 255): {margin}.",
        "",
        "![grid](grid.png)",
    ]
    for split, counts in card["splits"].items():
        lines += ["", f"## {split}", "", f"{counts['sessions']} sessions, {counts['turn_count']} turns."]
        for name in _TABLES:
            if counts[name]:
                lines += ["", f"| {name} | count |", "|---|---:|"]
                lines += [f"| {key} | {value} |" for key, value in counts[name].items()]
    return "\n".join(lines) + "\n"


def grid(shown: list[tuple[Session, list[Pixels]]]) -> Image.Image:
    """Sessions as rows: the source, then every turn below its instruction and its intent."""
    columns = max(len(images) for _, images in shown)
    height = SIDE + 82
    sheet = Image.new("RGB", (columns * (SIDE + 12), len(shown) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (session, images) in enumerate(shown):
        for column, image in enumerate(images):
            left, top = column * (SIDE + 12) + 6, row * height
            picture = Image.fromarray(np.asarray(image)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, top + 74))
            texts = [f"{session.track} {session.id}"] if column == 0 else _captions(session, column)
            for line, (text, colour) in enumerate(
                (part, c) for t, c in zip(texts, _INK, strict=False) for part in wrap(t)
            ):
                pen.text((left, top + 2 + 10 * line), text, fill=colour, font_size=9)
    return sheet


_INK = ("black", "#1a4fa0")


def _captions(session: Session, turn: int) -> list[str]:
    entry = session.turns[turn - 1]
    return [entry.instruction, entry.intent or ""]


def wrap(text: str, width: int = 30) -> list[str]:
    """Lines of at most `width` characters, broken between words; four at most."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines[:4]
