"""Editors that follow a script instead of a model: the right answer, and deliberate mistakes of one kind each.

They show that each metric falls for its own reason, and give gates bad models to refuse. An editor maps a session to
its pictures, uint8 (T + 1, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data.annotate import look
from data.render import Pixels, render
from data.scenes import Scene, SceneObject, World, world_named
from data.schema import SceneBlock, Session, Track

Editor = Callable[[Session], Pixels]


def _block(session: Session) -> SceneBlock:
    if session.scene is None:
        raise ValueError(f"session {session.id} is not a rendered one")
    return session.scene


def _pictures(session: Session, scenes: list[Scene]) -> Pixels:
    return render([_block(session).source, *scenes], world_named(_block(session).world))


def ground_truth(session: Session) -> Pixels:
    """Every turn right."""
    return _pictures(session, list(_block(session).targets))


def identity(session: Session) -> Pixels:
    """Never changes anything."""
    return _pictures(session, [_block(session).source] * len(session.turns))


def wrong_object(session: Session) -> Pixels:
    """Does every edit to another object: what should have changed stays, and a bystander is repainted."""
    block, world = _block(session), world_named(_block(session).world)
    scenes = [block.source]
    for target, touched in zip(block.targets, block.touched, strict=True):
        scene = scenes[-1]
        others = [cell for cell in scene.occupied() if cell not in touched]
        if others:
            scene = scene.place(others[0], _repainted(scene.cells[others[0]], world))
        elif target.background != scene.background:
            scene = Scene(target.background, scene.cells)
        scenes.append(scene)
    return _pictures(session, scenes[1:])


def tint_all(session: Session) -> Pixels:
    """Does every edit, and gives the colour of the edited object to everything else, too."""
    block, world = _block(session), world_named(_block(session).world)
    scenes = []
    for target, touched in zip(block.targets, block.touched, strict=True):
        edited = next((thing for cell in touched if (thing := target.cells[cell])), None)
        colour = edited.colour if edited else next(iter(world.colours))
        cells = (thing and thing._replace(colour=colour) for thing in target.cells)
        scenes.append(Scene(target.background, tuple(cells)))
    return _pictures(session, scenes)


def forgets_rules(session: Session) -> Pixels:
    """Does what each turn says, and ignores every rule that an earlier or the same turn stated."""
    if session.track == Track.CU:
        return ground_truth(session)
    block, world = _block(session), world_named(_block(session).world)
    scenes = [block.source]
    for turn in range(len(session.turns)):
        previous = (block.source, *block.targets)[turn]
        scenes.append(_without_rules(block, turn, previous, scenes[-1], world))
    return _pictures(session, scenes[1:])


def _without_rules(block: SceneBlock, turn: int, previous: Scene, own: Scene, world: World) -> Scene:
    """The target, but cells or attributes that only GA asks for are as the turn alone would leave them."""
    target = block.targets[turn]
    asked = {(check.cell, check.attribute) for check in block.checks[turn] if check.metric == "IF"}
    kept = {(kept.cell, kept.attribute): kept.source for kept in block.kept[turn]}
    counted = any(attribute == "count" for _, attribute in asked)
    scene = Scene(target.background, own.cells)
    for cell in block.touched[turn]:
        thing, old = target.cells[cell], previous.cells[cell]
        free = [(c, name) for c, name, _ in look(target, cell) if (c, name) not in asked and (c, name) not in kept]
        if thing is None:
            ruled = not counted and (cell, "kind") not in asked
            scene = scene.place(cell, old if ruled else None)
        elif not counted and (cell, "kind") not in asked and old is None:
            scene = scene.place(cell, None)
        else:
            scene = scene.place(cell, _unruled(thing, old, [name for _, name in free], world))
    return scene


def _unruled(thing: SceneObject, old: SceneObject | None, names: list[str], world: World) -> SceneObject:
    """Attributes that a rule decided replaced by what the object had, or else by another value."""
    for name in set(names) & {"colour", "material", "size"}:
        values = {"colour": tuple(world.colours), "material": world.materials, "size": tuple(world.sizes)}[name]
        had = getattr(old, name) if old is not None else ""
        others = [value for value in values if value != getattr(thing, name)]
        thing = thing._replace(**{name: had if had and had != getattr(thing, name) else others[0]})
    return thing


def undoes_earlier_edit(session: Session) -> Pixels:
    """Does every edit, and takes the edit of the turn before back."""
    block = _block(session)
    scenes = (block.source, *block.targets)
    made = [block.targets[0]]
    for turn in range(1, len(block.targets)):
        scene = block.targets[turn]
        for cell in block.touched[turn - 1]:
            if cell not in block.touched[turn]:
                scene = scene.place(cell, scenes[turn - 1].cells[cell])
        made.append(scene)
    return _pictures(session, made)


def noise(session: Session) -> Pixels:
    """Pictures of random pixels."""
    block = _block(session)
    size = world_named(block.world).image_size
    rng = np.random.default_rng(np.frombuffer(session.id.encode(), np.uint8))
    random_pixels = rng.integers(0, 256, (len(session.turns), size, size, 3), dtype=np.uint8)
    return np.concatenate([_pictures(session, []), random_pixels])


def _repainted(thing: SceneObject | None, world: World) -> SceneObject:
    if thing is None:
        raise ValueError("nothing to repaint")
    colours = list(world.colours)
    return thing._replace(colour=colours[(colours.index(thing.colour) + 1) % len(colours)])


EDITORS: dict[str, Editor] = {
    "ground truth": ground_truth,
    "identity": identity,
    "wrong object": wrong_object,
    "tint all": tint_all,
    "forgets rules": forgets_rules,
    "undoes earlier edit": undoes_earlier_edit,
    "noise": noise,
}
