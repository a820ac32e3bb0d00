"""What a turn says about standing rules: stating one, revising its value, withdrawing it."""

from __future__ import annotations

import random
from typing import NamedTuple

from data.constraints import FAMILIES, Rule, may_state
from data.history import History
from data.naming import View, name
from data.rule_phrases import RULES, TOPICS
from data.wordings import Wordings, pick


class Statement(NamedTuple):
    """What a turn says about rules: the words and the rules in force from it on."""

    words: str
    rules: tuple[Rule, ...]
    held_out: tuple[str, ...] = ()


def make_statement(
    history: History, rng: random.Random, event: str, families: tuple[str, ...], wordings: Wordings
) -> Statement | None:
    """What a turn says: `state` a rule of one of the families, `revise` or `withdraw` one in force, or nothing."""
    rules = history.rules
    if event == "state":
        return _new_rule(history, rng, families, wordings)
    revisable = [
        rule for rule in rules if FAMILIES[rule.family].attribute or rule.family in ("row", "coupled_material")
    ]
    if event == "revise" and revisable:
        return _revision(history, rng, rng.choice(revisable), wordings)
    if event in ("withdraw", "revise") and rules:
        rule = rng.choice(rules)
        phrase = pick(RULES["withdraw"], rng, wordings)
        words = phrase.text.format(topic=TOPICS[FAMILIES[rule.family].topic])
        left = tuple(other for other in rules if other is not rule)
        return Statement(words, left, ("phrase:withdraw",) * phrase.held_out)
    return Statement("", rules)


def _new_rule(history: History, rng: random.Random, families: tuple[str, ...], wordings: Wordings) -> Statement | None:
    possible = [family for family in families if may_state(family, history.rules)]
    if not possible:
        return Statement("", history.rules)
    family = rng.choice(possible)
    phrase = pick(RULES[family], rng, wordings)
    value, cell, it = _value(history, rng, family), -1, ""
    if family == "protect":
        cell, it = _protected(history, rng)
        if cell < 0:
            return None
    words = phrase.text.format(value=value.split()[-1] if value else "", kind=value.split()[0] if value else "", it=it)
    tags = (f"phrase:{family}",) * phrase.held_out + (f"family:{family}",) * (family == "added_size")
    return Statement(words, (*history.rules, Rule(family, value, history.turn, cell)), tags)


def _protected(history: History, rng: random.Random) -> tuple[int, str]:
    """An object to protect and its words, rather one of a kind of which there are more; -1 when none can be named."""
    view = View(history.world, history.scene)
    kinds = [thing.kind for thing in history.scene.cells if thing is not None]
    named = {cell: phrase for cell in history.scene.occupied() if (phrase := name(view, (cell,), rng))}
    tempting = [cell for cell in named if kinds.count(getattr(history.scene.cells[cell], "kind", "")) > 1]
    if not named:
        return -1, ""
    cell = rng.choice(tempting or list(named))
    return cell, f"the {named[cell]}"


def _revision(history: History, rng: random.Random, rule: Rule, wordings: Wordings) -> Statement:
    while (value := _value(history, rng, rule.family, rule.value)) == rule.value:
        pass
    phrase = pick(RULES["revise"], rng, wordings)
    words = phrase.text.format(topic=TOPICS[FAMILIES[rule.family].topic], value=value.split()[-1])
    new = Rule(rule.family, value, history.turn)
    rules = tuple(new if other is rule else other for other in history.rules)
    return Statement(words, rules, ("phrase:revise",) * phrase.held_out)


def _value(history: History, rng: random.Random, family: str, old: str = "") -> str:
    """A value that the family can take, as words; a revision keeps the kind that the rule is about."""
    world = history.world
    if family == "kind_colour":
        present = [thing.kind for thing in history.scene.cells if thing is not None and thing.kind in world.kinds]
        kind = old.split()[0] if old else rng.choice(present or world.kinds)
        return f"{kind} {rng.choice(tuple(world.colours))}"
    if family == "row":
        return rng.choice(world.row_words)
    if family == "coupled_material":
        return rng.choice(world.materials)
    choices = {"colour": tuple(world.colours), "material": world.materials, "size": tuple(world.sizes)}
    attribute = FAMILIES[family].attribute
    return rng.choice(choices[attribute]) if attribute else ""


def ruled_kind(history: History, rules: tuple[Rule, ...]) -> frozenset[int]:
    """Objects of the kind that a rule is about, until it has mattered once; none for other rules."""
    kinds = {rule.value.split()[0] for rule in rules if rule.family == "kind_colour" and not history.needed}
    scene = history.scene
    return frozenset(cell for cell, thing in enumerate(scene.cells) if thing is not None and thing.kind in kinds)
