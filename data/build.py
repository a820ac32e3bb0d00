"""Build a folder of rendered sessions: `python -m data.build sessions|benchmark --profile NAME [--out DIR]`.

A folder holds, per split, `<split>.jsonl` with one session per line and `images-<split>-00000.parquet` ... with the
columns path, png and sha256; besides, `vocabulary.json`, `world.json` and the data card (`card.json`, `card.md`,
`grid.png`). Parquet streams: row groups of 256 pictures are written and read one at a time and are found without
reading the rest. Sessions are made, rendered and written in small blocks, so that memory does not grow with their
number. The same parameters give the same bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data.card import Card
from data.constraints import FAMILIES
from data.errors import UserError
from data.parameters import read_profile, section
from data.phrases import vocabulary
from data.references import KINDS
from data.render import Pixels, render
from data.scenes import World, world_named
from data.schema import Session
from data.synthesis import SPLITS, Recipe, sessions

BLOCK = 64
"""Sessions rendered at once."""
GROUP_ROWS = 256
SHARD_ROWS = 32_768
SCHEMA = pa.schema([("path", pa.string()), ("png", pa.binary()), ("sha256", pa.string())])
OBJECTS = {"tiny": (2, 5), "small": (3, 8)}


@dataclass(frozen=True)
class SessionsConfig:
    """Sessions of a profile (the section `sessions`): what SFT and RL learn from, and what both are watched on.

    `train` has ground truth; `practice` has source pictures and instructions only: no target picture, no intent.
    """

    world: str = "tiny"  # which rendered world: tiny or small
    seed: int = 1
    train: int = 1500  # sessions per split
    practice: int = 0  # 0: RL practises on the training sessions
    validation: int = 64
    test: int = 0
    turns: tuple[int, int] = (2, 4)  # fewest and most turns of a session
    practice_turns: tuple[int, int] = (2, 5)  # of a practice session; validation spans both
    objects: tuple[int, int] | None = None  # fewest and most objects of a source scene; None: the world's usual
    cm_share: float = 0.5  # share of sessions with standing rules; the others refer back
    families: tuple[str, ...] = ()  # rules that may be stated; empty: all that the split may show
    references: tuple[str, ...] = ()  # references that may be made; empty: all
    practice_cm_share: float | None = None  # of practice sessions; None: as the others
    practice_families: tuple[str, ...] = ()  # of practice sessions, each as often as it is named; empty: as the others
    practice_references: tuple[str, ...] = ()  # the same of references


@dataclass(frozen=True)
class BenchmarkConfig(SessionsConfig):
    """Test sessions of a profile (the section `benchmark`): held-out combinations included."""

    seed: int = 9
    train: int = 0
    validation: int = 0
    test: int = 96
    turns: tuple[int, int] = (2, 6)


CONFIGS: dict[str, type[SessionsConfig]] = {"sessions": SessionsConfig, "benchmark": BenchmarkConfig}


def build(config: SessionsConfig, out: Path, name: str) -> Path:
    """Write a folder of sessions; whatever was at `out` is replaced only once the new folder is whole."""
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        _fill(config, partial, name)
        _swap(partial, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}", "Free space or choose --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _fill(config: SessionsConfig, folder: Path, name: str) -> None:
    world = world_named(config.world)
    card = Card(name, world, _told(config))
    for split in SPLITS:
        count = getattr(config, split)
        if count:
            _write_split(recipe(config, split), count, folder, card)
    _write_json(folder / "vocabulary.json", vocabulary(world))
    shown = {key: value for key, value in dataclasses.asdict(world).items() if key != "widens"}
    _write_json(folder / "world.json", {**shown, "cell_size": world.cell_size})
    card.write(folder)


def _told(config: SessionsConfig) -> dict[str, Any]:
    """The configuration as the card tells it: an emphasis of practice only where there is one."""
    silent = {"practice_cm_share": None, "practice_families": (), "practice_references": ()}
    told = dataclasses.asdict(config)
    return {key: value for key, value in told.items() if key not in silent or value != silent[key]}


def recipe(config: SessionsConfig, split: str) -> Recipe:
    """What a split of this configuration may contain; UserError when the values cannot work."""
    world = world_named(config.world)
    turns = _turns(config, split)
    objects = config.objects or OBJECTS[world.name]
    if not 1 <= turns[0] <= turns[1] <= 8 or not 1 <= objects[0] <= objects[1] <= world.cells - 2:
        raise UserError(f"turns {turns} or objects {objects} are out of range", "Correct them in params.yaml")
    share, families, references = _emphasis(config, split)
    unknown = {*families} - {*FAMILIES} | {*references} - {*KINDS}
    if unknown or not 0 <= share <= 1:
        names = ", ".join(sorted(unknown)) or f"cm_share {share}"
        raise UserError(f"{names}: no such rule or reference, or no share", f"Known: {', '.join((*FAMILIES, *KINDS))}")
    return Recipe(world, split, config.seed, turns, objects, share, families, references)


def _emphasis(config: SessionsConfig, split: str) -> tuple[float, tuple[str, ...], tuple[str, ...]]:
    """Share of sessions with rules, rules and references of a split: practice may dwell on what is hard."""
    if split != "practice":
        return config.cm_share, config.families, config.references
    share = config.cm_share if config.practice_cm_share is None else config.practice_cm_share
    return share, config.practice_families or config.families, config.practice_references or config.references


def _turns(config: SessionsConfig, split: str) -> tuple[int, int]:
    """Fewest and most turns of a split's sessions; validation watches SFT and RL, so it has the lengths of both."""
    if split == "practice":
        return config.practice_turns
    if split == "validation" and config.practice:
        both = (config.turns, config.practice_turns)
        return min(least for least, _ in both), max(most for _, most in both)
    return config.turns


def _write_split(plan: Recipe, count: int, folder: Path, card: Card) -> None:
    stream = sessions(plan, count)
    with (folder / f"{plan.split}.jsonl").open("w", encoding="utf-8") as lines, Shards(folder, plan.split) as shards:
        while block := list(islice(stream, BLOCK)):
            pictures = _render(block, plan.world)
            for session in block:
                images = [next(pictures) for _ in range(len(session.turns) + 1)]
                lines.write(json.dumps(session.to_row(), ensure_ascii=False, separators=(",", ":")) + "\n")
                for turn, image in enumerate(images[:1] if plan.split == "practice" else images):
                    shards.add(session.picture(turn), encode_png(image))
                card.add(session, images)


def _render(block: list[Session], world: World) -> Iterator[Pixels]:
    scenes = [scene for one in block if one.scene for scene in (one.scene.source, *one.scene.targets)]
    return iter(render(scenes, world))


def encode_png(image: Pixels) -> bytes:
    """A picture uint8 (H, W, 3) as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=2)
    return buffer.getvalue()


class Shards:
    """Pictures of a split as parquet files of bounded size; a context manager that finishes the last one."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = folder, split
        self._rows: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None
        self._shard, self._written = 0, 0

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        if self._writer:
            self._writer.close()

    def add(self, path: str, png: bytes) -> None:
        """One more picture."""
        self._rows.append({"path": path, "png": png, "sha256": hashlib.sha256(png).hexdigest()})
        if len(self._rows) == GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            path = self._folder / f"images-{self._split}-{self._shard:05d}.parquet"
            # PNG bytes do not compress further, and statistics of them would only swell the footer.
            self._writer = pq.ParquetWriter(
                path, SCHEMA, compression="none", use_dictionary=False, write_statistics=False
            )
        self._writer.write_table(pa.Table.from_pylist(self._rows, SCHEMA), row_group_size=GROUP_ROWS)
        self._written += len(self._rows)
        self._rows = []
        if self._written >= SHARD_ROWS:
            self._writer.close()
            self._writer, self._written, self._shard = None, 0, self._shard + 1


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _swap(new: Path, out: Path) -> None:
    """Put the finished folder in place; the old one is moved aside, as a rename cannot replace a full folder."""
    for path in new.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    old = out.with_name(f".{out.name}.old-{os.getpid()}")
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line; prints where the folder is."""
    parser = argparse.ArgumentParser(prog="python -m data.build", description="Build rendered sessions of a profile.")
    parser.add_argument("what", choices=CONFIGS)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--out", type=Path, help="default: data/<what>/<profile>")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    options = parser.parse_args(arguments)
    out = options.out or Path("data") / options.what / options.profile
    try:
        config = section(read_profile(options.profile, options.params), options.what, CONFIGS[options.what])
        print(build(config, out, f"{options.what}/{options.profile}"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
