"""Built sessions as arrays: streams from the shards of a folder, and renders on the fly for pre-training."""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from data.errors import UserError
from data.lessons import dictated_sessions, lesson, question
from data.render import Pixels, render
from data.sampling import random_scene, random_text
from data.scenes import Scene, World
from data.schema import Session
from data.synthesis import held_out_pairs, plain_sessions

MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded."""
CACHED_GROUPS = 128
MOST_DICTATED = 6
"""Turns of the longest lesson that is told in full: as many as the sessions of a benchmark have."""
REBUILD = "Rebuild the folder with `python -m data.build`"


@dataclass(frozen=True)
class Example:
    """A session with its pictures, uint8 (T + 1, H, W, 3): the source, then the picture after each turn."""

    session: Session
    images: NDArray[np.uint8]

    def first(self, turns: int | None) -> Example:
        """The session cut after its first `turns` turns; None leaves it whole."""
        if turns is None or turns >= len(self.session.turns):
            return self
        block = self.session.scene
        per_turn = ("targets", "checks", "touched", "kept")
        scene = block and block.model_copy(update={name: getattr(block, name)[:turns] for name in per_turn})
        session = self.session.model_copy(update={"turns": self.session.turns[:turns], "scene": scene})
        return Example(session, self.images[: turns + 1])


@dataclass(frozen=True)
class Lesson:
    """What a supervised step needs of a session: T + 1 pictures, uint8 (H, W, 3), T instructions and their intents."""

    images: NDArray[np.uint8]
    instructions: tuple[str, ...]
    intents: tuple[str, ...]
    asks: int = 0  # last turns that only ask: the answer is the intent, no picture is drawn

    @property
    def drawn(self) -> int:
        """Turns, from the first on, whose pictures are drawn."""
        return len(self.instructions) - self.asks

    @classmethod
    def of(cls, example: Example) -> Lesson:
        """A session with ground truth as a lesson; where no intent is known the instruction stands for it."""
        turns = example.session.turns
        intents = tuple(turn.intent or turn.instruction for turn in turns)
        return cls(example.images, tuple(turn.instruction for turn in turns), intents)


@dataclass
class SessionFolder:
    """The sessions of one split of a built folder, by position; pictures are read when asked for.

    With `targets=False` only the source picture is loaded: uint8 (1, H, W, 3). Only offsets and an index of paths stay
    in memory, with up to `CACHED_GROUPS` row groups of encoded pictures.
    """

    folder: Path
    split: str
    targets: bool = True
    _offsets: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        path = self.folder / f"{self.split}.jsonl"
        if not path.is_file():
            raise UserError(f"{path} does not exist", REBUILD)
        with path.open("rb") as file:
            lengths = [len(line) for line in file]
        self._offsets = [0, *itertools.accumulate(lengths)]

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Example:
        session = self.session(index)
        count = len(session.turns) + 1 if self.targets else 1
        return Example(session, np.stack([self.picture(session.picture(turn)) for turn in range(count)]))

    def session(self, index: int) -> Session:
        """One session without its pictures."""
        line = range(len(self))[index]
        path = self.folder / f"{self.split}.jsonl"
        try:
            with path.open("rb") as file:
                file.seek(self._offsets[line])
                return Session.from_row(json.loads(file.readline()))
        except ValueError as error:
            where = f"{path} line {line + 1}"
            raise UserError(f"{where} is not a session: {str(error).splitlines()[0]}", REBUILD) from error

    def sessions(self) -> Iterator[Session]:
        """All sessions without their pictures."""
        return (self.session(index) for index in range(len(self)))

    def picture(self, path: str) -> Pixels:
        """One picture by its path in the folder: uint8 (H, W, 3)."""
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:
            raise UserError(f"{self.folder}: picture path {path!r} leaves the folder", REBUILD)
        if path not in self._index:
            raise UserError(f"{self.folder}: no shard holds the picture {path}", REBUILD)
        shard, group, row = self._index[path]
        png, digest = self._group(shard, group)[row]
        if hashlib.sha256(png).hexdigest() != digest:
            raise UserError(f"{self._shards[shard]}: {path} differs from its digest", REBUILD)
        return decode(png, f"{self._shards[shard]}: {path}")

    @functools.cached_property
    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob(f"images-{self.split}-*.parquet"))

    @functools.cached_property
    def _index(self) -> dict[str, tuple[int, int, int]]:
        index: dict[str, tuple[int, int, int]] = {}
        for shard, path in enumerate(self._shards):
            file = _open(path)
            for group in range(file.num_row_groups):
                names = file.read_row_group(group, columns=["path"])["path"].to_pylist()
                index.update({name: (shard, group, row) for row, name in enumerate(names)})
        return index

    @functools.cached_property
    def _group(self) -> functools._lru_cache_wrapper[list[tuple[bytes, str]]]:
        @functools.lru_cache(maxsize=CACHED_GROUPS)
        def load(shard: int, group: int) -> list[tuple[bytes, str]]:
            table = _open(self._shards[shard]).read_row_group(group, columns=["png", "sha256"])
            return list(zip(table["png"].to_pylist(), table["sha256"].to_pylist(), strict=True))

        return load


def decode(png: bytes, where: str) -> Pixels:
    """An encoded picture as uint8 (H, W, 3); UserError when it is none or too large, before any pixel is decoded."""
    try:
        with Image.open(io.BytesIO(png)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise UserError(f"{where} has {picture.width}x{picture.height} pixels", "Use a smaller picture")
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{where} is not a readable picture", "Replace or rebuild it") from error


def render_scenes(world: World, count: int, seed: int) -> Pixels:
    """Random scenes for the image autoencoder: uint8 (N, H, W, 3); empty to full, one object in four a sign.

    Letters are the finest detail of a scene, so they are shown more often than sessions show them.
    """
    rng = random.Random(f"scenes/{world.name}/{seed}")
    banned = held_out_pairs(world)
    return render([_with_signs(rng, world, banned) for _ in range(count)], world)


def _with_signs(rng: random.Random, world: World, banned: frozenset[tuple[str, str]]) -> Scene:
    scene = random_scene(rng, world, (0, world.cells), 0.0, banned)
    for cell in scene.occupied():
        if rng.random() < 0.25:
            scene = scene.place(cell, world.sign(random_text(rng, world), rng.choice(tuple(world.colours))))
    return scene


def render_single_turns(world: World, count: int, seed: int) -> list[Example]:
    """Single-turn examples for pre-training: every edit type equally often, instructions that need no memory.

    Nothing held out is shown. Example k of a seed is the same whatever `count` is.
    """
    return _render_plain(world, count, seed, (1, 1))


def _render_plain(world: World, count: int, seed: int, turns: tuple[int, int]) -> list[Example]:
    return _rendered(itertools.islice(plain_sessions(world, seed, turns), count), world)


def _rendered(sessions: Iterable[Session], world: World) -> list[Example]:
    sessions = list(sessions)
    scenes = [(one.scene.source, *one.scene.targets) for one in sessions if one.scene is not None]
    images = render([scene for shown in scenes for scene in shown], world)
    ends = itertools.accumulate(len(shown) for shown in scenes)
    pairs = zip(sessions, scenes, ends, strict=True)
    return [Example(one, images[end - len(shown) : end]) for one, shown, end in pairs]


def render_lessons(
    world: World, count: int, seed: int, described: float = 0.0, chained: float = 0.0, dictated: float = 0.0
) -> list[Lesson]:
    """Lessons for the base model: single edits, then a `chained` share of two or three unrelated edits one after the
    other that ends with a question about them, a `dictated` share of up to `MOST_DICTATED` turns that are told in full
    and end with such a question, and a `described` share of whole scenes in words."""
    chains, spoken, others = (round(share * count) for share in (chained, dictated, described))
    edits = [Lesson.of(example) for example in render_single_turns(world, count - chains - spoken - others, seed)]
    longer = [_asked(example, world) for example in _render_plain(world, chains, seed + 1, (2, 3))]
    told = _rendered(itertools.islice(dictated_sessions(world, seed, (1, MOST_DICTATED)), spoken), world)
    dictation = [_asked(example, world) for example in told]
    drawn = [lesson(world, seed, index) for index in range(others)]
    images = render([scene for _, _, scenes in drawn for scene in scenes], world)
    whole = [
        Lesson(images[2 * i : 2 * i + 2], (instruction,), (intent,), asks=int(scenes[0] is scenes[1]))
        for i, (instruction, intent, scenes) in enumerate(drawn)
    ]
    return edits + longer + dictation + whole


def _asked(example: Example, world: World) -> Lesson:
    """A session with a last turn that changes nothing and asks about the session."""
    edits = Lesson.of(example)
    instruction, intent = question(example.session, world)
    images = np.concatenate((edits.images, edits.images[-1:]))
    return Lesson(images, (*edits.instructions, instruction), (*edits.intents, intent), asks=1)


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable shard", REBUILD) from error
