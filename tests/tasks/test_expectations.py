"""Expectations over a build made by hand: a sound one passes, and each kind of damage fails exactly its own rule."""

import hashlib
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.errors import UserError
from tasks.datasets import Dataset
from tasks.expectations import ValidationFailed, validate

FORMS = [
    ("subject_add", "Add [red cup]"),
    ("subject_remove", "Remove [red cup]"),
    ("subject_replace", "Replace [red cup] with [jug]"),
    ("color_alter", "Change the color of [cup] to [blue]"),
    ("material_alter", "Change the material of [cup] to [wood]"),
    ("text_change", "Add text '[AB]' on the image"),
    ("position_change", "Change the position of [cup] to [left] of [jug]"),
    ("count_change", "Change the count of [cup] to [3]"),
    ("background_change", "Change the background to [sand]"),
]


def png(seed: int, size: int = 16) -> bytes:
    image = Image.frombytes("RGB", (size, size), random.Random(seed).randbytes(3 * size * size))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def row(split: str, number: int, turns: int = 2) -> dict:
    forms = [FORMS[(number * turns + k) % 9] for k in range(turns)]
    return {
        "image": f"images/{split}/{number:06d}/0.png",
        "instruction": [form for _, form in forms],
        "task_type": [kind for kind, _ in forms],
        "formatted_instruction": [form for _, form in forms],
        "bg_consistency": [True] * turns,
        "unchanged_objects": [["jug"]] * turns,
        "available_objects": [["jug"]] * turns,
        "all_objects": [["jug"]] * turns,
        "turns": turns,
        "id": f"{split}-{number}",
        "track": "cm" if number % 2 else "cu",
        "split": split,
    }


def write_split(folder: Path, split: str, rows: list[dict], pictures: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    digests = [hashlib.sha256(content).hexdigest() for content in pictures.values()]
    table = pa.table({"path": list(pictures), "png": list(pictures.values()), "sha256": digests})
    pq.write_table(table, folder / f"images-{split}-00000.parquet", row_group_size=16)


def build(folder: Path, name: str = "sessions", seed: int = 0, edit=lambda rows, pictures: None) -> Dataset:
    """A build of two splits; `edit` may damage the training split before it is written."""
    for split, count in (("train", 18), ("validation", 6)):
        rows = [row(split, number) for number in range(count)]
        names = [f"images/{split}/{number:06d}/{k}.png" for number in range(count) for k in range(3)]
        pictures = {path: png(hash_of(path) + seed) for path in names}
        if split == "train":
            edit(rows, pictures)
        write_split(folder / name / "tiny", split, rows, pictures)
    return Dataset(name, "tiny", folder / name / "tiny", "0" * 32 + ".dir", "", 24, {"train": 18, "validation": 6})


def hash_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def failed(dataset: Dataset, **options) -> dict[str, tuple[str, ...]]:
    report = validate(dataset, **options)
    return {finding.rule: finding.rows for finding in report.findings if not finding.success}


def test_a_sound_build_passes(tmp_path):
    report = validate(build(tmp_path))
    assert report.success and not report.warnings, report.warnings
    report.raise_for_failure()
    assert {finding.table for finding in report.findings} == {"sessions", "pictures", "shares"}
    assert len(report.findings) == 21
    content = json.loads(report.as_json())
    assert content["success"] and content["findings"][0]["checked"] >= 0


def change(column: str, value):
    def edit(rows, pictures):
        rows[3][column] = value

    return edit


DAMAGE = [
    (
        change("formatted_instruction", ["Remove []", "Add [cup]"]),
        "every turn has parseable slots",
        "train.jsonl line 4",
    ),
    (change("instruction", ["one"]), "every row is a session with lists as long as its turns", "train.jsonl line 4"),
    (change("image", "/abs/0.png"), "image paths are relative and stay inside", "train.jsonl line 4"),
    (change("id", "train-0"), "ids are unique", "train.jsonl line 1"),
    (change("split", "dev"), "splits are known", "train.jsonl line 4: dev"),
]


@pytest.mark.parametrize(("edit", "rule", "where"), DAMAGE)
def test_a_defective_row_is_named(tmp_path, edit, rule, where):
    found = failed(build(tmp_path, edit=edit))
    assert rule in found
    assert any(entry.startswith(where) for entry in found[rule]), found


def test_practice_that_shows_a_target_is_named(tmp_path):
    dataset = build(tmp_path)
    rows = [row("practice", number) for number in range(6)]
    sources = {entry["image"]: png(hash_of(entry["image"])) for entry in rows}
    write_split(dataset.folder, "practice", rows, sources)
    assert not failed(dataset)
    write_split(dataset.folder, "practice", rows, {**sources, "images/practice/000002/1.png": png(5)})
    (named,) = failed(dataset)["practice shows no target picture"]
    assert named == "practice.jsonl line 3: a shard holds images/practice/000002/1.png"


def test_defective_pictures_are_named(tmp_path):
    def edit(rows, pictures):
        names = list(pictures)
        pictures[names[4]] = b"not a picture"
        pictures[names[8]] = png(1, size=20)
        del pictures[names[9]]

    found = failed(build(tmp_path, edit=edit))
    assert found["every picture decodes"][0].startswith("images-train-00000.parquet row 4 (images/train/000001/1.png)")
    assert "images/train/000003/0.png" in found["every session has all its pictures"][0]
    assert found["all pictures of a session have one size"][0].endswith("20x20 instead of 16x16")


def test_a_picture_that_differs_from_its_hash(tmp_path):
    dataset = build(tmp_path)
    shard = dataset.folder / "images-train-00000.parquet"
    rows = pq.read_table(shard).to_pylist()
    rows[5]["png"] = png(77)
    pq.write_table(pa.Table.from_pylist(rows), shard)
    found = failed(dataset)
    assert list(found) == ["every picture has its recorded hash"]
    assert found["every picture has its recorded hash"][0].startswith("images-train-00000.parquet row 5")


def test_a_source_of_another_split_is_a_leak(tmp_path):
    def edit(rows, pictures):
        pictures["images/train/000002/0.png"] = png(hash_of("images/validation/000001/0.png"))

    found = failed(build(tmp_path, edit=edit))
    assert found["no source occurs in another split"] == ("validation.jsonl line 2: train.jsonl line 3",)


def test_a_benchmark_is_compared_with_the_sessions_beside_it(tmp_path):
    benchmark = build(tmp_path, "benchmark")
    assert not failed(benchmark)
    build(tmp_path, "sessions")
    found = failed(benchmark)
    assert len(found["no source occurs in another split"]) == 20
    assert "sessions/tiny/train.jsonl line 1" in found["no source occurs in another split"][0]
    build(tmp_path, "sessions", seed=1)
    assert not failed(benchmark)


def test_one_edit_type_that_dominates_is_a_warning(tmp_path):
    def edit(rows, pictures):
        for entry in rows:
            entry["task_type"], entry["formatted_instruction"] = ["subject_add"] * 2, ["Add [cup]"] * 2

    report = validate(build(tmp_path, edit=edit))
    assert report.success
    assert "train.jsonl subject_add" in report.warnings[0].rows[0]


def test_a_failure_is_one_line_that_names_rows_and_escapes_in_the_page(tmp_path):
    def edit(rows, pictures):
        for number in range(5):
            rows[number]["formatted_instruction"] = ["Paint [cup]", "Add [cup]"]
            rows[number]["id"] = "<script>alert(1)</script>"

    report = validate(build(tmp_path, edit=edit))
    with pytest.raises(ValidationFailed, match="sessions/tiny fails: every turn has parseable slots") as caught:
        report.raise_for_failure()
    assert "train.jsonl line 1" in caught.value.problem and "and 2 more" in caught.value.problem
    assert "\n" not in str(caught.value) and isinstance(caught.value, UserError)
    assert "<script" not in report.html and "&lt;script" in report.html
    assert "http" not in report.html and "src=" not in report.html


def test_an_empty_build_fails(tmp_path):
    folder = tmp_path / "sessions" / "tiny"
    folder.mkdir(parents=True)
    report = validate(Dataset("sessions", "tiny", folder, "x", "", 0, {}))
    assert not report.success


def test_rendered_sessions_must_list_what_stays(tmp_path):
    from data.build import SessionsConfig
    from data.build import build as render

    folder = tmp_path / "sessions" / "tiny"
    folder.parent.mkdir()
    render(SessionsConfig(world="tiny", train=8, validation=4), folder, "sessions/tiny")
    dataset = Dataset("sessions", "tiny", folder, "x", "", 12, {})
    assert validate(dataset).success
    lines = (folder / "train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    damaged = next(number for number, entry in enumerate(rows) if entry["unchanged_objects"][0])
    rows[damaged]["unchanged_objects"][0] = []
    (folder / "train.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    found = failed(dataset)
    assert list(found) == ["objects to keep are listed, or nothing else is there"]
    assert found["objects to keep are listed, or nothing else is there"][0].startswith(
        f"train.jsonl line {damaged + 1}: turn 1"
    )
