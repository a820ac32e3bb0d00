"""Sessions as segments, and their packing into rows.

`session_segments` lays a session out, `pack` turns many sessions into one `PackedBatch`. Rope: a text takes one id per token,
a picture segment takes ONE id for all its tokens; NOISY never advances the rope. A dropped branch gives its rope ids
back: what follows a branch's turn has the positions (and the view) of a session without traces.
Attention inside a session: everything earlier in the same stream, itself causally (TEXT) or fully; NOISY is seen by nobody
else; branch segments are seen by their own turn only. The clean/ViT copy of I_t belongs to turn t + 1, which it opens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor

from model.tokenizer import SpecialIds


class Kind(IntEnum):
    """What a segment holds."""

    TEXT = 0
    VIT = 1
    CLEAN = 2
    NOISY = 3


class View(IntEnum):
    """What of its session a NOISY segment sees; NO_IMAGE also marks the texts of the pictureless stream."""

    FULL = 0
    NO_TEXT = 1
    NO_IMAGE = 2


@dataclass(frozen=True)
class Segment:
    """One segment. TEXT: `tokens` are plain ids (the frame is added). `dropped`: takes rope (pictures), has no tokens."""

    kind: Kind
    turn: int
    tokens: tuple[int, ...] = ()
    picture: int = -1  # row of the Pictures table; NOISY: the target, whose grid and latents are used
    noisy: int = -1  # row of the table of noisy latents
    branch: bool = False
    supervised: bool = False  # TEXT: predict words and eos; (no effect on other kinds)
    truncated: bool = False  # TEXT: its eos was not a decision of the model, so it is no target
    view: View = View.FULL
    dropped: bool = False


@dataclass(frozen=True)
class Pictures:
    """Table of P pictures of any sizes, flat. latents (ΣNlat, C) clean, patchified, scaled; patches (ΣNvit, p*p*3)."""

    latents: Tensor
    patches: Tensor
    latent_grids: tuple[tuple[int, int], ...]  # (rows, columns) per picture
    patch_grids: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.latent_grids)

    def select(self, rows: Sequence[int]) -> Pictures:
        """The named pictures in the named order."""
        raise NotImplementedError

    @staticmethod
    def concatenate(tables: Sequence[Pictures]) -> Pictures:
        """Tables one after the other."""
        raise NotImplementedError


def session_segments(
    instructions: Sequence[Sequence[int]],
    pictures: Sequence[int],
    noisy: Sequence[Sequence[int]],
    traces: Sequence[Sequence[int] | None] | None = None,
    *,
    truncated: Sequence[bool] | None = None,
    supervise: bool = True,
    keep_traces: bool = False,
    use_vit: bool = True,
    guided: bool = False,
) -> list[Segment]:
    """[CLEAN I0][VIT I0] then per turn [TEXT instruction][TEXT trace, branch][NOISY target]*n [CLEAN I_t][VIT I_t].

    instructions[k], traces[k]: plain ids of turn k+1; pictures[k]: table row of I_k (T + 1 entries); noisy[k]: rows of
    the noisy table for turn k+1 (may be empty). `keep_traces` keeps traces in context. `guided` adds the
    pictureless stream and the NO_TEXT / NO_IMAGE views of every NOISY segment, so that forward can guide.
    The last turn's clean/ViT copies are left out. turn counts from 1.
    """
    raise NotImplementedError


@dataclass(frozen=True)
class PackedBatch:
    """Index tensors of one forward. Token order is [understanding tokens, generation tokens]; T tokens, rows (B, L).

    Trainers use: noisy_of_token (ΣN,) row of the noisy table per noisy token (table order), noisy_target (ΣN,) row of
    `Pictures.latents` that is the token's clean target, noisy_turn / noisy_session (J,), text_turn / text_session /
    text_tokens per supervised TEXT segment in ordinal order (order: by session, then by segment).
    """

    noisy_of_token: Tensor
    noisy_target: Tensor
    noisy_turn: Tensor
    noisy_session: Tensor
    text_turn: Tensor
    text_session: Tensor

    def to(self, device: str) -> PackedBatch:
        """The same batch on another device."""
        raise NotImplementedError


def pack(
    sessions: Sequence[Sequence[Segment]], pictures: Pictures, special: SpecialIds, *, row_tokens: int | None = None
) -> PackedBatch:
    """Pack sessions into rows by first fit (rows of `row_tokens`, default: the longest session)."""
    raise NotImplementedError
