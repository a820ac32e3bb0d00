from dataclasses import dataclass
from pathlib import Path

import pytest

from data.errors import UserError
from data.parameters import profile_names, read_profile, section


@dataclass(frozen=True)
class Numbers:
    world: str
    train: int = 3


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(
        "profiles:\n  tiny: {sessions: {world: tiny, train: 5}, seed: 1}\n"
        "  smoke: {extends: tiny, sessions: {train: 2}}\n"
        "  round: {extends: round}\n"
    )
    return path


def test_extends_merges_deeply(file):
    assert read_profile("smoke", file) == {"sessions": {"world": "tiny", "train": 2}, "seed": 1}
    assert profile_names(file) == ["tiny", "smoke", "round"]
    assert section(read_profile("smoke", file), "sessions", Numbers) == Numbers("tiny", 2)


@pytest.mark.parametrize(("name", "says"), [("huge", "tiny, smoke"), ("round", "itself")])
def test_bad_profiles_say_what_to_do(file, name, says):
    with pytest.raises(UserError, match=says):
        read_profile(name, file)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"world": "tiny", "trian": 3}, "sessions.trian"),
        ({"world": "tiny", "train": "x"}, "sessions.train"),
        ({}, "world"),
    ],
)
def test_bad_keys_are_named(values, says):
    with pytest.raises(UserError, match=says):
        section({"sessions": values}, "sessions", Numbers)


@pytest.mark.parametrize("text", ["profiles: [", "profiles: 3", ""])
def test_bad_files_are_named(tmp_path, text):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError, match=r"p\.yaml"):
        read_profile("tiny", tmp_path / "p.yaml")
    with pytest.raises(UserError, match="does not exist"):
        read_profile("tiny", tmp_path / "none.yaml")
