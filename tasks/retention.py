"""What may be thrown away: a plan that is a pure function of what was found.

Nothing goes that a version in the ledger needs, back to its base, or that an alias names; nothing that is young, being
written or waiting for a person; and not the newest models. Copies follow the model that they are copies of. What has to
stay or may go is decided here; `tasks.retiring` looks and acts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

Kind = Literal["model", "checkpoint", "copy"]
State = Literal["whole", "open", "broken"]


@dataclass(frozen=True)
class Item:
    """Something that takes room.

    `name` is a model's id or a folder's name; `size` counts bytes. A model has a `label` (base, sft, rl) and may have a
    `parent`; a copy (cached files or scores) has as `owners` the models that it is of. `state` is `open` while
    someone is at it or waits for it, and `broken` where it never came whole.
    """

    kind: Kind
    name: str
    size: int
    changed: datetime
    profile: str | None = None
    label: str | None = None
    parent: str | None = None
    owners: tuple[str, ...] = ()
    state: State = "whole"


@dataclass(frozen=True)
class Choice:
    """What becomes of an item, and why."""

    item: Item
    keep: bool
    reason: str

    @property
    def line(self) -> str:
        """One line for people."""
        what = f"{self.item.kind} {self.item.name}" + (f" ({self.item.label})" if self.item.label else "")
        return f"{'keep' if self.keep else 'delete':<6} {readable(self.item.size):>10}  {what}: {self.reason}"

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        item = asdict(self.item) | {"changed": self.item.changed.isoformat()}
        return item | {"keep": self.keep, "reason": self.reason}


@dataclass(frozen=True)
class Rule:
    """How much stays beside what chains need: the newest `keep_last` models of each label, and all that is younger."""

    keep_last: int
    older_than: timedelta

    @property
    def days(self) -> str:
        """`older_than` for people."""
        return f"{self.older_than / timedelta(days=1):g} days"


def plan(
    items: Sequence[Item], needed: Mapping[str, str], rule: Rule, now: datetime, profile: str | None = None
) -> list[Choice]:
    """What to do with each item, those that go first, the largest before the smaller ones.

    Args:
        items: everything that was found, of every profile: a chain may cross from one to another.
        needed: model id to who needs it, see `tasks.retiring.needed`.
        rule: what else stays.
        now: the time to count from.
        profile: choose among the items of this profile only, and those that belong to none.
    """
    models = {item.name: item for item in items if item.kind == "model"}
    kept = _kept_models(models, needed, rule, now)
    found = [_choice(item, kept, models, rule, now) for item in items]
    wanted = [choice for choice in found if profile is None or choice.item.profile in (profile, None)]
    return sorted(wanted, key=lambda choice: (choice.keep, -choice.item.size, choice.item.name))


def _kept_models(models: Mapping[str, Item], needed: Mapping[str, str], rule: Rule, now: datetime) -> dict[str, str]:
    """Model id to the reason for which it stays; whatever a kept model came from stays with it."""
    kept = dict(needed)
    newest = _newest(models.values(), rule.keep_last)
    for name, item in models.items():
        if item.state == "open":
            kept.setdefault(name, "someone is at it, or waits for it")
        elif name in newest:
            kept.setdefault(name, f"among the newest {rule.keep_last} {item.label} models of {item.profile}")
        elif now - item.changed < rule.older_than:
            kept.setdefault(name, f"younger than {rule.days}")
    for name in list(kept):
        parent = models[name].parent if name in models else None
        while parent is not None and parent not in kept:
            kept[parent] = f"model {name} came from it"
            parent = models[parent].parent if parent in models else None
    return kept


def _newest(models: Iterable[Item], count: int) -> set[str]:
    """Names of the newest whole models of each profile and label."""
    groups: dict[tuple[str | None, str | None], list[Item]] = {}
    for item in models:
        if item.state == "whole":
            groups.setdefault((item.profile, item.label), []).append(item)
    ordered = [sorted(group, key=lambda item: (item.changed, item.name)) for group in groups.values()]
    return {item.name for group in ordered for item in group[max(0, len(group) - count) :]}


def _choice(item: Item, kept: Mapping[str, str], models: Mapping[str, Item], rule: Rule, now: datetime) -> Choice:
    if item.kind == "model":
        if item.name in kept:
            return Choice(item, True, kept[item.name])
        broken = "its files are not whole" if item.state == "broken" else "no live chain needs it"
        return Choice(item, False, f"{broken}, and it is older than {rule.days}")
    if item.state == "open":
        return Choice(item, True, "someone is at it")
    staying = next((owner for owner in item.owners if owner in kept), None)
    if staying is not None:
        return Choice(item, True, f"model {staying} stays: {kept[staying]}")
    if now - item.changed < rule.older_than:
        return Choice(item, True, f"younger than {rule.days}")
    return Choice(item, False, _why(item, models))


def _why(item: Item, models: Mapping[str, Item]) -> str:
    if item.kind == "checkpoint":
        return "its run was given up long ago" if item.state == "broken" else "its run is finished or unknown"
    known = [owner for owner in item.owners if owner in models]
    if known:
        return f"model {known[0]} goes"
    return "no stored model is like it" if item.state == "whole" else "a crash left it behind"


def readable(size: int) -> str:
    """Bytes in binary units."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
