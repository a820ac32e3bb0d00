"""One turn at a time: a draft, the rules or references that apply to it, and everything that is recorded about it."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Literal, NamedTuple

from data.annotate import Outcome, intent
from data.constraints import FAMILIES, Case, Rule, blocked, govern
from data.edits import Request, apply, formatted
from data.history import History
from data.naming import View
from data.phrases import EDITS, MAX_INSTRUCTION, MAX_INTENT, REFERENCES
from data.proposals import Draft, propose
from data.references import Pointer, pointers, previous_colour, twins, undo
from data.rule_phrases import JOINT
from data.scenes import SIGN
from data.schema import Check, EditType, Kept, Need
from data.statements import Statement, make_statement, ruled_kind
from data.wordings import Wordings, fill, of_phrase, pick

Banned = frozenset[tuple[str, str]]
TYPES = tuple(EditType)
WEIGHTS = {
    EditType.SUBJECT_ADD: 0.1,
    EditType.SUBJECT_REMOVE: 1.6,
    EditType.SUBJECT_REPLACE: 1.6,
    EditType.COLOR_ALTER: 0.55,
    EditType.MATERIAL_ALTER: 1.45,
    EditType.TEXT_CHANGE: 2.3,
    EditType.POSITION_CHANGE: 1.35,
    EditType.COUNT_CHANGE: 1.3,
    EditType.BACKGROUND_CHANGE: 1.6,
}
"""Above 1: tried first more often. Fitted by counting, so that all nine come out about equal whatever rules prefer."""


class Written(NamedTuple):
    """A finished turn: its texts and what is known exactly about it."""

    instruction: str
    type: EditType
    formatted: str
    intent: str
    needs: tuple[Need, ...]
    checks: tuple[Check, ...]
    touched: tuple[int, ...]
    kept: tuple[Kept, ...]
    held_out: tuple[str, ...]


def write_plain_turn(history: History, rng: random.Random, edit_type: EditType, banned: Banned) -> Written | None:
    """A turn of one edit type without rules or references, in any words that the base model is to know."""
    draft = propose(edit_type, View(history.world, history.scene), rng)
    return None if draft is None else _finish(history, rng, draft, Statement("", ()), banned, "more")


def write_cm_turn(
    history: History, rng: random.Random, event: str, families: tuple[str, ...], banned: Banned, wordings: Wordings
) -> Written | None:
    """A turn under standing rules; `event` is `state` (one of the families), `revise`, `withdraw` or nothing."""
    statement = make_statement(history, rng, event, families, wordings)
    if statement is None:
        return None
    fixed = frozenset(rule.cell for rule in statement.rules if rule.family == "protect")
    view = View(history.world, history.scene, statement.rules, fixed, ruled_kind(history, statement.rules))
    forbidden = blocked(statement.rules)
    for edit_type in _bound_first(_order(rng), statement.rules, rng, 0.4 if history.needed else 0.8):
        draft = None if edit_type in forbidden else propose(edit_type, view, rng)
        written = draft and _finish(history, rng, draft, statement, banned, wordings)
        if written:
            return written
    return None


def write_cu_turn(
    history: History, rng: random.Random, event: str, kinds: tuple[str, ...], banned: Banned, wordings: Wordings
) -> Written | None:
    """A turn that makes one of the kinds of reference where `event` is `reference` and the session allows it.

    Any other event prepares one: the edit type to try first, or `twins`, an edit of one of the only two of a kind.
    """
    nothing = Statement("", ())
    view = View(history.world, history.scene)
    if event == "reference":
        written = _referring(history, rng, view, kinds, banned, wordings)
        if written:
            return written
    prepared = [EditType(event)] if event in TYPES else []
    view = view._replace(only=twins(history)) if event == "twins" else view
    for edit_type in (*prepared, *_order(rng)):
        draft = propose(edit_type, view, rng)
        written = draft and _finish(history, rng, draft, nothing, banned, wordings)
        if written:
            return written
    return None


def _bound_first(order: list[EditType], rules: tuple[Rule, ...], rng: random.Random, chance: float) -> list[EditType]:
    """Now and then first what a rule acts on: rules that govern one edit type alone would rarely matter else."""
    binds = [edit_type for rule in rules for edit_type in FAMILIES[rule.family].binds]
    return [rng.choice(binds), *order] if binds and rng.random() < chance else order


def _order(rng: random.Random) -> list[EditType]:
    """Edit types in a random order, the rarely possible ones towards the front."""
    return sorted(TYPES, key=lambda edit_type: rng.random() ** WEIGHTS.get(edit_type, 1.0))


def _referring(
    history: History, rng: random.Random, view: View, kinds: tuple[str, ...], banned: Banned, wordings: Wordings
) -> Written | None:
    """A turn with a reference of a random possible kind."""
    options = [pointer for pointer in pointers(history, rng, wordings) if pointer.kind in kinds]
    writers: list[Callable[[], Written | None]] = [
        functools.partial(_pointing, history, rng, view, p, banned, wordings) for p in options
    ]
    if "before" in kinds:
        writers.append(functools.partial(_before, history, rng, view, banned, wordings))
    if "undo" in kinds:
        writers.append(functools.partial(_undoing, history, rng, wordings))
    rng.shuffle(writers)
    for write in writers:
        written = write()
        if written:
            return written
    return None


def _pointing(
    history: History, rng: random.Random, view: View, pointer: Pointer, banned: Banned, wordings: Wordings
) -> Written | None:
    tags = (f"phrase:{pointer.kind}",) * pointer.held_out
    for edit_type in _order(rng):
        draft = propose(edit_type, view, rng, pointer.focus)
        need = _need("reference", pointer.kind, pointer.stated)
        written = draft and _finish(history, rng, draft, Statement("", (), tags), banned, wordings, need)
        if written:
            return written
    return None


def _before(history: History, rng: random.Random, view: View, banned: Banned, wordings: Wordings) -> Written | None:
    found = previous_colour(history, view, rng)
    if found is None:
        return None
    draft, turn = found
    need = _need("reference", "before", turn)
    return _finish(history, rng, draft, Statement("", ()), banned, wordings, need)


def _undoing(history: History, rng: random.Random, wordings: Wordings) -> Written | None:
    found = undo(history)
    if found is None:
        return None
    request, effect, subject, old_text = found
    phrase = pick(REFERENCES["undo"], rng, wordings)
    names = dict.fromkeys(request.cells[:1], subject)
    if request.anchor >= 0:
        anchor = history.scene.cells[request.anchor]
        names[request.anchor] = f"{anchor.colour} {anchor.kind}" if anchor else ""
    if request.type == EditType.TEXT_CHANGE:
        sign = history.scene.cells[request.cells[0]]
        names = {request.cells[0]: f"{sign.colour} {SIGN}" if sign else SIGN}
    outcome = Outcome(history.scene, request, effect, restored=True)
    need = _need("reference", "undo", history.turn - 1)
    form = formatted(request, names, new=subject, old_text=old_text)
    return _record(history, outcome, phrase.text, form, (need,), (), ("phrase:undo",) * phrase.held_out)


def _finish(
    history: History,
    rng: random.Random,
    draft: Draft,
    statement: Statement,
    banned: Banned,
    wordings: Wordings,
    reference: Need | None = None,
) -> Written | None:
    """The draft as a recorded turn; None when a rule leaves no room, a banned pair appears or words get too many."""
    outcome = _outcome(history, draft.request, statement.rules, banned, _said(draft, reference))
    if outcome is None or len(intent(outcome, history.world).split()) > MAX_INTENT:
        return None
    phrasing = REFERENCES["before"] if draft.key == "before" else EDITS[draft.key]
    phrase = pick(phrasing, rng, wordings)
    words = fill(phrase.text, **draft.fields, of=of_phrase(draft.attribute, draft.fields.get("it", "")))
    if len(words.split()) > MAX_INSTRUCTION:
        return None
    words = f"{statement.words} {JOINT} {words}" if statement.words else words
    named = () if reference else draft.request.cells
    anchor = (draft.request.anchor,) if draft.request.anchor >= 0 else ()
    form = formatted(draft.request, draft.names, draft.new, draft.old_text)
    rules = tuple(_need("constraint", rule.family, rule.stated) for rule in outcome.binding)
    needs = (*rules, reference) if reference else rules
    tags = statement.held_out + (f"phrase:{draft.key}",) * phrase.held_out
    return _record(history, outcome, words, form, needs, statement.rules, tags, (*named, *anchor))


def _said(draft: Draft, reference: Need | None) -> dict[int, str]:
    """The noun phrases that the instruction uses; a reference stands for the subject, or for what an addition is put
    beside."""
    if reference is None:
        return draft.names
    return {
        cell: phrase for cell, phrase in draft.names.items() if draft.request.cells and cell == draft.request.anchor
    }


def _outcome(
    history: History, request: Request, rules: tuple[Rule, ...], banned: Banned, said: dict[int, str]
) -> Outcome | None:
    """The request under the rules; None when there is no room for it, nothing would happen or a banned pair appears."""
    case = Case(history.world, history.scene, request, history.added_cells())
    try:
        effect, duties, binding = govern(rules, case, apply(history.scene, request))
    except ValueError:
        return None
    shown = any(thing is not None and (thing.kind, thing.colour) in banned for thing in effect.scene.cells)
    idle = effect.scene == history.scene and not binding
    return None if shown or idle else Outcome(history.scene, request, effect, duties, binding, said=said)


def _need(kind: Literal["constraint", "reference"], name: str, stated: int) -> Need:
    """A need without validation: thousands are made per second."""
    return Need.model_construct(kind=kind, name=name, stated=stated)


def _record(
    history: History,
    outcome: Outcome,
    words: str,
    form: str,
    needs: tuple[Need, ...],
    rules: tuple[Rule, ...],
    held_out: tuple[str, ...],
    named: tuple[int, ...] = (),
) -> Written:
    history.record(outcome, named, reference=any(need.kind == "reference" for need in needs))
    # A protected object's rule is stated by its cell; it never moves, so the cell stays right.
    history.rules = rules
    return Written(
        words,
        outcome.request.type,
        form,
        intent(outcome, history.world),
        needs,
        history.checks(rules),
        history.touched(),
        history.kept(),
        held_out,
    )
