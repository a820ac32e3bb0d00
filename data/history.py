"""The memory of a session while it is written: scenes so far, who is who, duties that later turns must still show."""

from __future__ import annotations

from dataclasses import dataclass, field

from data.annotate import Outcome, instruction_checks, kept_attributes, look, spread_checks
from data.constraints import BACKGROUND, Duty, Rule
from data.edits import ATTRIBUTES
from data.scenes import Scene, SceneObject, World
from data.schema import Check, Kept


@dataclass
class Life:
    """One object over time: when it was added (0 = in the source), when it was last named, and its looks by turn."""

    added: int
    named: int = 0
    looks: list[tuple[int, SceneObject]] = field(default_factory=list)


@dataclass
class History:
    """State of a session after some turns. `who` maps cells to objects; `last` are the objects edited last."""

    world: World
    scenes: list[Scene]
    outcomes: list[Outcome] = field(default_factory=list)
    rules: tuple[Rule, ...] = ()
    lives: list[Life] = field(default_factory=list)
    who: dict[int, int] = field(default_factory=dict)
    earlier: list[dict[int, int]] = field(default_factory=list)
    """`who` before every turn: undoing a turn brings back the same objects, not new ones."""
    last: tuple[int, ...] = ()
    due: set[Duty] = field(default_factory=set)
    touched_ever: set[int] = field(default_factory=set)
    background_kept: bool = True
    needed: bool = False
    """Whether any rule or reference has mattered yet: before that, there is nothing to be aware of."""

    @classmethod
    def start(cls, world: World, source: Scene) -> History:
        """The history of a session before its first turn."""
        history = cls(world, [source])
        for cell in source.occupied():
            history._appear(cell, source, 0)
        return history

    @property
    def turn(self) -> int:
        """Number of the turn to come, from 1."""
        return len(self.scenes)

    @property
    def scene(self) -> Scene:
        return self.scenes[-1]

    def cell_of(self, life: int) -> int | None:
        """Where an object is now."""
        return next((cell for cell, other in self.who.items() if other == life), None)

    def added_cells(self) -> tuple[int, ...]:
        """Cells of objects that were added and are still there, oldest first."""
        present = sorted(
            (self.lives[life].added, life, cell) for cell, life in self.who.items() if self.lives[life].added
        )
        return tuple(cell for _, _, cell in present)

    def record(self, outcome: Outcome, named: tuple[int, ...], reference: bool) -> None:
        """Take a turn in: who moved, came and went, and which duties hold from now on."""
        for cell in named:
            if cell in self.who:
                self.lives[self.who[cell]].named = self.turn
        self._renew_duties(outcome, reference)
        self.needed |= reference or bool(outcome.binding)
        self._follow(outcome)
        effect = outcome.effect
        self.touched_ever |= {*effect.edited, *effect.removed}
        self.background_kept &= effect.scene.background == outcome.before.background
        self.scenes.append(effect.scene)
        self.outcomes.append(outcome)

    def _follow(self, outcome: Outcome) -> None:
        effect, turn = outcome.effect, self.turn
        origin = dict(effect.origin)
        before = dict(self.who)
        self.earlier.append(before)
        if outcome.restored:
            return self._bring_back(outcome)
        for cell in effect.removed:
            self.who.pop(cell, None)
        for cell in effect.edited:
            source = origin.get(cell)
            continues = source is not None and source in before and (cell not in effect.added)
            if continues and source is not None:
                self.who[cell] = before[source]
                self.lives[before[source]].looks.append((turn, _present(effect.scene, cell)))
            else:
                self._appear(cell, effect.scene, turn)
        if effect.edited:
            self.last = tuple(self.who[cell] for cell in effect.edited)
        elif effect.removed:
            self.last = ()

    def _bring_back(self, outcome: Outcome) -> None:
        effect = outcome.effect
        self.who = dict(self.earlier[-2])
        for cell in effect.edited:
            self.lives[self.who[cell]].looks.append((self.turn, _present(effect.scene, cell)))
        self.last = tuple(self.who[cell] for cell in effect.edited)

    def _appear(self, cell: int, scene: Scene, turn: int) -> None:
        self.who[cell] = len(self.lives)
        self.lives.append(Life(turn, turn, [(turn, _present(scene, cell))]))

    def _renew_duties(self, outcome: Outcome, reference: bool) -> None:
        """Duties end where the scene changes lawfully, move along with their object, and new ones begin."""
        effect = outcome.effect
        origin = dict(effect.origin)
        moved = {
            (cell, name)
            for cell, source in origin.items()
            if cell != source
            for name in ATTRIBUTES
            if (source, name) in self.due
        }
        self.due = {duty for duty in self.due if not _changed(outcome, duty)} | moved
        self.due |= {duty for duty in outcome.duties if duty != BACKGROUND}
        if reference:
            cells = (*effect.edited, *effect.removed)
            self.due |= {(cell, name) for cell in cells for cell, name, _ in look(effect.scene, cell)}

    def checks(self, rules: tuple[Rule, ...]) -> tuple[Check, ...]:
        """IF and GA of the turn recorded last, under the rules in force at it."""
        outcome, scene = self.outcomes[-1], self.scene
        if not self.needed:
            return instruction_checks(outcome)
        due = [entry for cell in sorted({cell for cell, _ in self.due}) for entry in look(scene, cell)]
        kept = [Check("GA", *entry) for entry in due if entry[:2] in self.due]
        standing = [Check("GA", *entry) for entry in self._standing(rules, outcome)]
        spread = spread_checks(rules, scene, self.due)
        return (*instruction_checks(outcome), *dict.fromkeys((*kept, *standing, *spread)))

    def _standing(self, rules: tuple[Rule, ...], outcome: Outcome) -> list[tuple[int, str, str]]:
        """What prohibitions hold fixed."""
        entries: list[tuple[int, str, str]] = []
        for rule in rules:
            if rule.family == "background_lock":
                entries.append((*BACKGROUND, self.scene.background))
            if rule.family == "protect":
                entries.extend(look(self.scene, rule.cell))
            if rule.family == "only_edited":
                touched = {*outcome.effect.edited, *outcome.effect.removed}
                entries.extend(
                    e for cell in self.scene.occupied() if cell not in touched for e in look(self.scene, cell)
                )
        return entries

    def touched(self) -> tuple[int, ...]:
        """Cells that the last turn was to change."""
        effect = self.outcomes[-1].effect
        return tuple(sorted({*effect.edited, *effect.removed}))

    def kept(self) -> tuple[Kept, ...]:
        """Attributes that the last turn had to keep in the objects it changed."""
        return kept_attributes(self.outcomes[-1])


def _changed(outcome: Outcome, duty: Duty) -> bool:
    cell, name = duty
    old, new = outcome.before.cells[cell], outcome.effect.scene.cells[cell]
    if old is None or new is None:
        return old is not new
    return getattr(old, name) != getattr(new, name)


def _present(scene: Scene, cell: int) -> SceneObject:
    thing = scene.cells[cell]
    if thing is None:
        raise ValueError(f"cell {cell} is empty")
    return thing
