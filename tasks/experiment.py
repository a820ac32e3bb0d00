"""The variants of the results table: what `experiments.yaml` says, typed, checked, and as parameters of usual stages.

A variant differs from a profile in named values only, so it runs through the same stages, under the same fingerprints,
as a retraining: where the two agree, one reuses what the other did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.errors import UserError
from data.parameters import merge, profile_names, read_profile
from tasks import parameters
from tasks.parameters import Parameters
from tasks.settings import settings

FILE = "experiments.yaml"
Training = Literal["base", "sft", "rl"]
ORDER: tuple[Training, ...] = ("base", "sft", "rl")


class _Written(BaseModel):
    """One variant as it stands in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: Training
    about: str
    parent: str | None = None
    against: tuple[str, ...] = ()
    seeds: int | None = Field(default=None, ge=1)
    only: tuple[str, ...] = ()
    sft: dict[str, Any] = {}
    rl: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    profiles: dict[str, dict[Literal["sft", "rl", "evaluation"], dict[str, Any]]] = {}


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    headline: str
    figures: tuple[str, ...] = ()
    labels: dict[str, tuple[str, ...]] = {}
    variants: dict[str, _Written]


@dataclass(frozen=True)
class Variant:
    """One row of the table: the training that ends it, the variant it starts from, what it overrides."""

    name: str
    stage: Training
    about: str
    parent: str | None
    overrides: dict[str, Any] = field(hash=False)
    only: tuple[str, ...] = ()  # the profiles it is written for; none named: all
    against: tuple[str, ...] = ()  # what it is compared with besides the headline and its parent
    seeds: int | None = None  # takes no more than so many of a table's seeds, the first; None: all

    @property
    def seeded(self) -> bool:
        """Whether a seed changes it: all variants share one base."""
        return self.stage != "base"

    def takes(self, seeds: Sequence[int]) -> Sequence[int]:
        """Those of a table's seeds that it is made with."""
        return seeds[: self.seeds if self.seeded else 1]


@dataclass(frozen=True)
class Experiment:
    """The variants of one profile, in the order of the file."""

    profile: str
    headline: str
    figures: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]  # which variants differ in labelled sessions, under the name of one of them
    variants: dict[str, Variant]

    def lineage(self, name: str) -> list[Variant]:
        """A variant and all that it starts from, the base first."""
        found = self.variants[name]
        return [*(self.lineage(found.parent) if found.parent else []), found]

    def chosen(self, names: Sequence[str]) -> list[Variant]:
        """The named variants in the order of the file; all that are written for the profile when none is named.

        Raises:
            UserError: a name is unknown.
        """
        if unknown := [name for name in names if name not in self.variants]:
            raise UserError(f"{FILE} has no variant {unknown[0]!r}", f"Choose among: {', '.join(self.variants)}")
        return [each for each in self.variants.values() if (each.name in names if names else self.written_for(each))]

    def written_for(self, variant: Variant) -> bool:
        """Whether a variant has numbers for this profile."""
        return not variant.only or self.profile in variant.only

    def pairs(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """What is compared with what: the headline with every other variant, then each other one with its parent
        and with what it names."""
        others = [name for name in self.variants if name in names and name != self.headline]
        first = [(self.headline, other) for other in others] if self.headline in names else []
        own = [(name, other) for name in others for other in (self.variants[name].parent, *self.variants[name].against)]
        return first + [(name, other) for name, other in own if other in names and other is not None]

    def parameters(self, variant: Variant, seed: int) -> Parameters:
        """The profile with what the variant overrides; the seed is that of its own training.

        Raises:
            UserError: an override is no key of its section or has the wrong type, or the variant is not written
                for this profile.
        """
        if not self.written_for(variant):
            remedy = f"Write it for {self.profile} too and add that to its `only`, or leave it out with --variants"
            raise UserError(f"{FILE}: {variant.name} is not written for profile {self.profile}", remedy)
        found = merge(read_profile(self.profile, settings().root / "params.yaml"), variant.overrides)
        if variant.seeded:
            found = merge(found, {variant.stage: {"optimisation": {"seed": seed}}})
        return parameters.typed(self.profile, found, f"{FILE}: {variant.name}")


def load(profile: str, path: Path | None = None) -> Experiment:
    """Read and check the file of variants for one profile.

    Raises:
        UserError: the file is missing or says something that makes no sense; names the variant and the key.
    """
    path = path or settings().root / FILE
    try:
        written = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", "Run from the folder of the repository") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable YAML", "Correct the file") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{FILE}: {where}: {first['msg']}", f"Correct {FILE}") from error
    against = [other for found in written.variants.values() for other in found.against]
    by_labels = [name for key, names in written.labels.items() for name in (key, *names)]
    for name in (written.headline, *written.figures, *by_labels, *against):
        _require(name in written.variants, f"{name!r} is no variant")
    known = profile_names(settings().root / "params.yaml")
    for name, found in written.variants.items():
        for named in (*found.only, *found.profiles):
            _require(named in known, f"{name}: {named!r} is no profile")
            _require(named in (found.only or known), f"{name}: numbers for {named}, which `only` leaves out")
    variants = {name: _variant(name, found, profile, written) for name, found in written.variants.items()}
    return Experiment(profile, written.headline, written.figures, written.labels, variants)


def _variant(name: str, found: _Written, profile: str, written: _File) -> Variant:
    stage = ORDER.index(found.stage)
    parent = written.variants.get(found.parent or "")
    if stage:
        _require(parent is not None, f"{name}: parent {found.parent!r} is no variant")
        _require(parent is not None and ORDER.index(parent.stage) < stage, f"{name}: its parent is no earlier stage")
    else:
        _require(found.parent is None, f"{name}: a base has no parent")
    sections = {"sft": found.sft, "rl": found.rl, "evaluation": found.evaluation}
    overrides = merge(sections, {str(key): value for key, value in found.profiles.get(profile, {}).items()})
    foreign = [key for key in ("sft", "rl") if key != found.stage and overrides[key]]
    _require(not foreign, f"{name}: `{''.join(foreign)}` has no effect on a variant of stage {found.stage}")
    return Variant(name, found.stage, found.about, found.parent, overrides, found.only, found.against, found.seeds)


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise UserError(f"{FILE}: {problem}", f"Correct {FILE}")
