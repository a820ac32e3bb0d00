"""The chain of a version as an SVG picture: base to version from left to right, data below, scores above."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from tasks.pedigree import Generation, Pedigree

WIDTH, HEIGHT, GAP, MARGIN = 220, 84, 56, 24  # of a box, between boxes and around them, in pixels
LONGEST = 32  # characters of a line that fit into a box
ACTS = {"promote": "promoted", "refuse": "refused", "override": "promoted by override", "rollback": "restored"}
MODEL, DATA, SCORE = "#dbe9f6", "#e5f2dc", "#fbe9c6"
GOOD, BAD = "#cfe8cf", "#f4c7c3"


@dataclass(frozen=True)
class Box:
    """A box with lines of text, the first one bold. `column` and `row` count from the upper left."""

    column: int
    row: int
    lines: tuple[str, ...]
    colour: str

    @property
    def at(self) -> tuple[int, int]:
        """Upper left corner."""
        return MARGIN + self.column * (WIDTH + GAP), MARGIN + self.row * (HEIGHT + GAP)


def draw(found: Pedigree) -> str:
    """The picture as SVG text."""
    boxes, arrows = _layout(found)
    width = MARGIN * 2 + (1 + max(box.column for box in boxes)) * (WIDTH + GAP) - GAP
    height = MARGIN * 2 + (1 + max(box.row for box in boxes)) * (HEIGHT + GAP) - GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
    tip = '<marker id="tip" markerWidth="9" markerHeight="7" refX="8" refY="3.5" orient="auto">'
    defs = f'<defs>{tip}<path d="M0 0L9 3.5L0 7z" fill="#555"/></marker></defs>'
    ground = f'<rect width="{width}" height="{height}" fill="white"/>'
    parts = [head, defs, ground, *(_arrow(*arrow) for arrow in arrows), *(_box(box) for box in boxes), "</svg>"]
    return "\n".join(parts) + "\n"


def _layout(found: Pedigree) -> tuple[list[Box], list[tuple[Box, Box]]]:
    boxes: list[Box] = []
    arrows: list[tuple[Box, Box]] = []
    before: Box | None = None
    for column, model in enumerate(reversed(found.generations)):
        box = Box(column, 1, _model_lines(model), MODEL)
        boxes.append(box)
        if before:
            arrows.append((before, box))
        for row, lines in enumerate(made_from(model), start=2):
            below = Box(column, row, lines, DATA)
            boxes.append(below)
            arrows.append((below, box))
        before = box
    assert before is not None  # a pedigree has one generation at least
    upper = _judgement(found, before.column)
    return [*boxes, *upper], [*arrows, (before, upper[0]), (upper[0], upper[1]), (upper[1], upper[2])]


def made_from(model: Generation) -> list[tuple[str, ...]]:
    """Lines of the boxes below a model: its data sets, and the weights that came ready."""
    data = [(found["name"], f"dvc {found['digest']['dvcMd5Dir'][:16]}") for found in model.datasets]
    return [*data, *((*ready.rsplit(" ", 1), "made outside this ledger") for ready in model.imported)]


def _model_lines(model: Generation) -> tuple[str, ...]:
    source = model.resources["source"]
    changed = " + changes" if source["annotations"]["dirty"] else ""
    code = f"code {source['digest']['gitCommit'][:12]}{changed}"
    return f"model {model.name}", f"digest {model.digest[:12]}", code, f"statement {model.statement[:12]}"


def _judgement(found: Pedigree, column: int) -> list[Box]:
    scores, decision, entry = found.scores, found.decision, found.entry
    mean = scores.means()["session_success"]
    told = f"session success {mean['mean']:.3f} (n={mean['n']})" if mean["mean"] is not None else "no session judged"
    data = f"dvc {scores.benchmark.digest.removesuffix('.dir')[:16]}"
    failed = f", {len(decision.reasons)} failed" if decision.reasons else ""
    gates = (
        f"gates: {decision.verdict}",
        f"{len(decision.findings)} rules{failed}",
        f"decision {decision.digest[:12]}",
    )
    word = found.word
    signed = ({"approve": "approved by ", "override": "overridden by "}[word.kind] + word.signer,) if word else ()
    state = ("recalled",) if found.recalled else signed
    held = BAD if found.recalled or not decision.promote else GOOD
    act = (f"{ACTS.get(entry.action, entry.action)} by {entry.actor}", entry.time[:16].replace("T", " "))
    return [
        Box(column, 0, (f"scores on {scores.benchmark.name}", data, f"judge {scores.judge.name}", told), SCORE),
        Box(column + 1, 0, gates, SCORE),
        Box(column + 1, 1, (f"{found.model} version {entry.version}", *act, *state), held),
    ]


def _box(box: Box) -> str:
    x, y = box.at
    frame = f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{box.colour}" stroke="#777"/>'
    return frame + "".join(_lines(box.lines, x + 10, y + 18))


def _lines(lines: Sequence[str], x: int, y: int) -> Iterator[str]:
    for number, line in enumerate(lines):
        text = line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
        weight = ' font-weight="bold"' if number == 0 else ""
        yield f'<text x="{x}" y="{y + 16 * number}" font-size="12"{weight}>{escape(text)}</text>'


def _arrow(start: Box, end: Box) -> str:
    """A straight arrow between the sides that face each other."""
    (x1, y1), (x2, y2) = start.at, end.at
    if start.column != end.column:
        points = (x1 + WIDTH, y1 + HEIGHT // 2, x2, y2 + HEIGHT // 2)
    elif y1 < y2:
        points = (x1 + WIDTH // 2, y1 + HEIGHT, x2 + WIDTH // 2, y2)
    else:
        points = (x1 + WIDTH // 2, y1, x2 + WIDTH // 2, y2 + HEIGHT)
    a, b, c, d = points
    return f'<line x1="{a}" y1="{b}" x2="{c}" y2="{d}" stroke="#555" stroke-width="1.5" marker-end="url(#tip)"/>'
