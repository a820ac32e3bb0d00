from __future__ import annotations

import io

import pytest
from rich.console import Console

from tasks import progress


@pytest.fixture
def screen(monkeypatch):
    made = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=made, highlight=False))
    return made


def test_a_stage_is_said_to_be_done_when_it_is(screen):
    with progress.shown("train", "train") as advance:
        advance(0.5, "loss 1")
        assert "done" not in screen.getvalue()
    assert "done train" in screen.getvalue()


def test_a_failed_stage_is_not_said_to_be_done(screen):
    with pytest.raises(ValueError), progress.shown("train", "train"):
        raise ValueError
    assert "done" not in screen.getvalue()


def test_a_terminal_gets_a_bar(monkeypatch):
    made = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=made, force_terminal=True, width=120))
    with progress.shown("train", "train") as advance:
        advance(0.25, "loss 1")
    assert "%" in made.getvalue()


def test_machines_are_shown_nothing(monkeypatch):
    made = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=made, force_terminal=True))
    progress.be_quiet()
    with progress.shown("train", "train") as advance:
        advance(0.5)
    progress.say("hello")
    assert made.getvalue() == ""


def test_what_was_said_once_is_not_said_again(screen):
    progress.say_once("only once, please")
    progress.say_once("only once, please")
    assert screen.getvalue().count("only once") == 1


def test_prefect_gets_an_artifact_within_a_flow(prefect):
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    @flow(name="shows")
    def shows():
        with progress.shown("train", "train-of-a-test") as advance:
            advance(0.5)

    shows()
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["train-of-a-test"]))
        (artifact,) = client.read_artifacts(artifact_filter=wanted)
    assert (artifact.type, float(artifact.data)) == ("progress", 100.0)
