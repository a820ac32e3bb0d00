"""Promotions from several processes at once, and processes killed in the middle: ledger and alias agree in the end."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from data.errors import UserError
from tasks import attestation
from tasks.approval import load_person, sign_approval
from tasks.candidacy import assess
from tasks.doctor import examine
from tasks.failures import transient
from tasks.ledger import CROWNING, Conflict
from tasks.models import ModelRecord
from tasks.promotion import Candidate, promote, rollback
from tests.tasks.houses import (
    BENCHMARK_NAME,
    POLICY,
    House,
    build_house,
    ensure_built,
    open_test_books,
    sqlite_template,
    standing,
    train,
)
from tests.tasks.scoresets import skilled

LAX = POLICY.model_copy(update={"against_champion": (), "against_parent": (), "resamples": 200})

PATIENCE = 600.0  # seconds for a process to come up or to finish, on a machine that has other work

pytestmark = pytest.mark.slow


@pytest.fixture
def house(tmp_path):
    (tmp_path / "template").mkdir()
    house = build_house(tmp_path / "house", sqlite_template(tmp_path / "template"))
    ensure_built(house, BENCHMARK_NAME)
    return house


def models_of(house: House, count: int) -> list[ModelRecord]:
    base = train(house, "base", content="base")
    sft = train(house, "sft", base, content="sft")
    return [train(house, "rl", sft, f"rl {number}") for number in range(count)]


def reopened(root: Path, experiment: str, commit: str) -> House:
    """The same installation in another process."""
    from mlflow import MlflowClient

    address = f"sqlite:///{root}/.edit-r2/mlflow.db"
    return House(root, open_test_books(root / ".edit-r2", MlflowClient(address, address)), experiment, commit)


def patiently(act):
    """Repeat an act while the database is busy, as the flows do; an act may be repeated at any point."""
    for _ in range(20):
        try:
            return act()
        except Exception as error:
            if not transient(error):
                raise
            time.sleep(0.2)
    return act()


def try_to_promote(house: House, model: ModelRecord) -> tuple[str, ...]:
    """Decide and promote; what the gates object to, if anything."""
    books = house.books
    decision = patiently(lambda: assess(books, LAX, model, standing(house, model, skilled(0.6))))
    statement = patiently(lambda: attestation.statement_of(books, model.model_id))
    candidate = Candidate(model.model_id, model.run_id, model.digest, statement)
    grace = load_person(books.keys, "grace", create=True)
    # Counts where a rollback has left the model; without it there would soon be nothing left to promote.
    word = sign_approval("approve", decision.digest, grace, "once more for the drill", timedelta(days=1))
    outcome = patiently(lambda: promote(books, candidate, decision, "race", word))
    return () if outcome.promoted else outcome.decision.reasons


def race(where: tuple, mine: list[ModelRecord], rounds: int, results) -> None:
    house, won, refused, faults = reopened(*where), 0, 0, []
    for turn in range(rounds):
        try:
            objections = try_to_promote(house, mine[turn % len(mine)])
            won += not objections
            faults += objections  # these gates refuse nothing: only another champion than expected may be in the way
        except Conflict:
            refused += 1
        except Exception as error:
            faults.append(f"{type(error).__name__}: {error}")
    results.put((won, refused, faults))


def context():
    """Children that start with everything imported and no database open."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["mlflow", "tests.tasks.test_promotion_race"])
    return found


@contextmanager
def ended(processes: list):
    """Start processes and never leave one behind: a child that outlives its test keeps the whole run from ending."""
    for process in processes:
        process.start()
    try:
        yield
        for process in processes:
            process.join(PATIENCE)
    finally:
        for process in processes:
            process.kill()
            process.join()


def crownings(house: House) -> list:
    chain = [signed.entry for signed in house.books.ledger.chain()]
    return [entry for entry in chain if entry.action in CROWNING]


@pytest.mark.timeout(1800)
def test_fifty_concurrent_promotions(house):
    workers, rounds = 5, int(os.environ.get("EDIT_R2_TEST_PROMOTIONS", "50")) // 5
    models = models_of(house, 2 * workers)
    where = (house.root, house.experiment, house.commit)
    results = context().Queue()
    started = [
        context().Process(target=race, args=(where, models[2 * number : 2 * number + 2], rounds, results))
        for number in range(workers)
    ]
    with ended(started):
        found = [results.get(timeout=PATIENCE) for _ in started]
    assert [fault for *_, faults in found for fault in faults] == []
    won, refused = sum(item[0] for item in found), sum(item[1] for item in found)
    entries = crownings(house)
    print(f"\n{workers * rounds} promotions from {workers} processes: {won} won, {refused} refused")
    assert won + refused == workers * rounds
    assert len(entries) == won
    expected = [None, *(entry.model_digest for entry in entries[:-1])]
    assert [entry.expected for entry in entries] == expected[: len(entries)], (
        "each champion was replaced by exactly one other"
    )
    assert house.books.registry.alias("champion") == entries[-1].version
    assert examine(house.books, house.root) == []


def churn(where: tuple, models: list[ModelRecord], seed: int, ready) -> None:
    """Promote and roll back without end."""
    house, generator = reopened(*where), random.Random(seed)
    house.books.registry.versions()
    ready.set()
    while True:
        try:
            if generator.random() < 0.6:
                try_to_promote(house, generator.choice(models))
            else:
                rollback(house.books, "drill")
        except UserError:
            continue


@pytest.mark.timeout(3600)
def test_kill_at_random_points_of_promote_and_rollback(house):
    models = models_of(house, 4)
    generator = random.Random(11)
    where = (house.root, house.experiment, house.commit)
    mended: dict[str, int] = {}
    for turn in range(int(os.environ.get("EDIT_R2_TEST_KILLS", "100"))):
        ready = context().Event()
        process = context().Process(target=churn, args=(where, models, turn, ready))
        with ended([process]):
            assert ready.wait(PATIENCE), "the process does not come up"
            time.sleep(generator.uniform(0.1, 1.6))
            os.kill(process.pid, signal.SIGKILL)
        for complaint in examine(house.books, house.root, repair=True):
            mended[complaint.kind] = mended.get(complaint.kind, 0) + 1
        left = [complaint.line for complaint in examine(house.books, house.root)]
        assert left == [], left
        entries = crownings(house)
        expected = [None, *(entry.model_digest for entry in entries[:-1])]
        assert [entry.expected for entry in entries] == expected[: len(entries)]
        assert house.books.registry.alias("champion") == (entries[-1].version if entries else None)
    print(f"\n{turn + 1} kills, {len(crownings(house))} changes of champion, mended: {mended}")
