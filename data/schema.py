"""Sessions as values, and their form on disk: the published MICE-Bench row plus optional columns of our own.

A row is one JSON object per session; every per-turn field is a list with one entry per turn. The published columns are
`PUBLISHED`. Rendered sessions add `id`, `track`, `split`, `intent`, `needs` and `scene`; readers of the published form
can ignore them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, model_serializer, model_validator

from data.scenes import WORLDS, Scene, SceneObject, scene_from_dict, scene_to_dict, world_named

PUBLISHED = (
    "image",
    "instruction",
    "task_type",
    "formatted_instruction",
    "bg_consistency",
    "unchanged_objects",
    "available_objects",
    "all_objects",
    "turns",
)
PER_TURN = PUBLISHED[1:-1]
EXTRA_PER_TURN = ("intent", "needs")


class EditType(StrEnum):
    """The nine edit types, by their published names."""

    SUBJECT_ADD = "subject_add"
    SUBJECT_REMOVE = "subject_remove"
    SUBJECT_REPLACE = "subject_replace"
    COLOR_ALTER = "color_alter"
    MATERIAL_ALTER = "material_alter"
    TEXT_CHANGE = "text_change"
    POSITION_CHANGE = "position_change"
    COUNT_CHANGE = "count_change"
    BACKGROUND_CHANGE = "background_change"


class Track(StrEnum):
    """Content memory (a standing constraint) or content understanding (references)."""

    CM = "cm"
    CU = "cu"


class Check(NamedTuple):
    """One condition on a picture's scene; a turn's metric is the conjunction of its checks.

    `attribute` is a field of SceneObject, `background` or `count`; `cell` is -1 for the latter two. An empty cell has
    the kind "". A count's value is `3 ball`. `wanted=False` means that the cell must not have the value.
    """

    metric: Literal["IF", "GA"]
    cell: int
    attribute: str
    value: str
    wanted: bool = True


class Kept(NamedTuple):
    """An attribute of `cell` that must be as it was in `source`, a cell of the picture before the turn."""

    cell: int
    source: int
    attribute: str


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Need(_Frozen):
    """What a turn needs from earlier text: a constraint or a reference, and the turn (from 1) that stated it."""

    kind: Literal["constraint", "reference"]
    name: str
    stated: int


class Turn(_Frozen):
    """One instruction with its published annotations; `intent` and `needs` exist where they are known exactly."""

    instruction: str
    task_type: EditType
    formatted_instruction: str
    bg_consistency: bool
    unchanged_objects: tuple[str, ...]
    available_objects: tuple[str, ...]
    all_objects: tuple[str, ...]
    intent: str | None = None
    needs: tuple[Need, ...] | None = None


class SceneBlock(_Frozen):
    """What is known of a rendered session: its scenes, and per turn the checks, the cells that may change and what must
    be kept within them.

    `held_out` names what a training split never shows (pairs, phrases, families) and this session does.
    """

    world: str
    source: Scene
    targets: tuple[Scene, ...]
    checks: tuple[tuple[Check, ...], ...]
    touched: tuple[tuple[int, ...], ...]
    kept: tuple[tuple[Kept, ...], ...]
    held_out: tuple[str, ...] = ()

    def lengths(self) -> set[int]:
        """Lengths of the per-turn fields: one value when the block is whole."""
        return {len(self.targets), len(self.checks), len(self.touched), len(self.kept)}

    @model_validator(mode="before")
    @classmethod
    def _from_words(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("source"), Mapping):
            return data
        world = WORLDS.get(str(data.get("world")))
        scenes = [data["source"], *data["targets"]] if isinstance(data.get("targets"), list) else []
        if world is None or not scenes or not all(isinstance(scene, Mapping) for scene in scenes):
            raise ValueError("a scene block names its world and has a source and targets")
        source, *targets = (scene_from_dict(dict(scene), world) for scene in scenes)
        return {**data, "source": source, "targets": tuple(targets)}

    @model_validator(mode="after")
    def _inside(self) -> SceneBlock:
        """Nothing that a judge looks up may be missing: cells lie in the world, attributes exist, counts are counts."""
        cells = len(self.source.cells)
        checks = [check for turn in self.checks for check in turn]
        kept = [entry for turn in self.kept for entry in turn]
        places = [*(cell for turn in self.touched for cell in turn), *(cell for entry in kept for cell in entry[:2])]
        places += [check.cell for check in checks if check.attribute in SceneObject._fields]
        named = {check.attribute for check in checks} <= {*SceneObject._fields, "background", "count"}
        counts = [check.value.split() for check in checks if check.attribute == "count"]
        counted = all(len(words) == 2 and words[0].isdecimal() for words in counts)
        if not named or not counted or not {entry.attribute for entry in kept} <= {*SceneObject._fields}:
            raise ValueError("a check or kept attribute of the scene block is unknown")
        if not all(0 <= place < cells for place in places):
            raise ValueError("a cell of the scene block lies outside the world")
        return self

    @model_serializer
    def _to_words(self) -> dict[str, Any]:
        world = world_named(self.world)
        block: dict[str, Any] = {
            "world": self.world,
            "source": scene_to_dict(self.source, world),
            "targets": [scene_to_dict(scene, world) for scene in self.targets],
            "checks": [[list(check) for check in checks] for checks in self.checks],
            "touched": [list(cells) for cells in self.touched],
            "kept": [[list(kept) for kept in turn] for turn in self.kept],
        }
        return {**block, "held_out": list(self.held_out)} if self.held_out else block


class Session(_Frozen):
    """A source image and its turns. `image` is a path relative to the folder of the sessions."""

    id: str
    image: str
    turns: tuple[Turn, ...]
    track: Track | None = None
    split: str = ""
    scene: SceneBlock | None = None

    @model_validator(mode="after")
    def _whole(self) -> Session:
        if not self.turns:
            raise ValueError("a session has at least one turn")
        if self.scene and self.scene.lengths() != {len(self.turns)}:
            raise ValueError("the scene block must have one target and one list of checks and cells per turn")
        return self

    def picture(self, turn: int) -> str:
        """Path of the picture after a turn (0 = the source) by the convention of built folders."""
        path = PurePosixPath(self.image)
        return str(path.with_name(f"{turn}{path.suffix}"))

    def to_row(self) -> dict[str, Any]:
        """The on-disk row; only the published columns when nothing else is known."""
        turns = [turn.model_dump(mode="json") for turn in self.turns]
        row: dict[str, Any] = {"image": self.image}
        row.update({name: [turn[name] for turn in turns] for name in PER_TURN})
        row["turns"] = len(turns)
        if self.scene is not None or self.track is not None:
            row.update(id=self.id, track=self.track and str(self.track), split=self.split)
        for name in EXTRA_PER_TURN:
            if any(turn[name] is not None for turn in turns):
                row[name] = [turn[name] for turn in turns]
        if self.scene is not None:
            row["scene"] = self.scene.model_dump(mode="json")
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any], default_id: str = "", track: Track | None = None) -> Session:
        """The session of a row; ValueError (pydantic's is one) names what is missing or of a wrong length or type."""
        missing = [name for name in PUBLISHED if name not in row]
        if missing:
            raise ValueError(f"missing columns: {', '.join(missing)}")
        columns = [name for name in (*PER_TURN, *EXTRA_PER_TURN) if name in row]
        lengths = {name: len(row[name]) if isinstance(row[name], list) else -1 for name in columns}
        wrong = [name for name, length in lengths.items() if length != row["turns"]]
        if wrong:
            raise ValueError(f"not {row['turns']} entries in: {', '.join(wrong)}")
        turns = [{name: row[name][index] for name in columns} for index in range(row["turns"])]
        return cls.model_validate(
            {
                "id": row.get("id") or default_id or PurePosixPath(row["image"]).stem,
                "image": row["image"],
                "turns": turns,
                "track": row.get("track") or track,
                "split": row.get("split") or "",
                "scene": row.get("scene"),
            }
        )
