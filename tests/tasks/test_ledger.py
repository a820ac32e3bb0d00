"""The ledger: append-only, compare-and-set, and no altered, missing or torn entry goes unnoticed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from data.errors import UserError
from tasks.canonical import sha256
from tasks.documents import BucketShelf, FolderShelf, copy
from tasks.ledger import Conflict, Draft, Ledger, LedgerError, champion, read_chain
from tasks.signing import load_identity


def open_ledger(folder: Path, shelf=None) -> Ledger:
    keys = folder / "keys"
    return Ledger(shelf or FolderShelf(folder / "ledger"), keys, load_identity(keys))


def draft(version: int, expected: str | None = None, action="promote", **changes) -> Draft:
    base = {
        "action": action,
        "model": "edit-r2",
        "alias": "champion",
        "version": version,
        "model_digest": sha256(b"%d" % version),
        "expected": expected,
        "actor": "ada",
        "reason": "better",
    }
    return Draft.model_validate(base | changes)


class Bucket:
    """The four calls of a store that the ledger makes, with conditional puts as S3 has them."""

    def __init__(self, conditional: bool = True) -> None:
        self.objects: dict[str, bytes] = {}
        self.conditional = conditional

    def refuses_overwrites(self) -> bool:
        return self.conditional

    def put_new(self, key: str, content: bytes) -> bool:
        if key in self.objects and self.conditional:
            return False
        self.objects[key] = content
        return True

    def get(self, key: str) -> bytes:
        return self.objects[key]

    def exists(self, key: str) -> bool:
        return key in self.objects

    def list(self, prefix: str = ""):
        return [key for key in self.objects if key.startswith(prefix)]


@pytest.fixture(params=["folder", "bucket"])
def ledger(request, tmp_path):
    return open_ledger(tmp_path, None if request.param == "folder" else BucketShelf(Bucket()))


def test_entries_are_chained_and_signed(ledger):
    first = ledger.append(draft(1))
    second = ledger.append(draft(2, first.entry.model_digest))
    assert [signed.entry.index for signed in ledger.chain()] == [0, 1]
    assert second.entry.previous == first.hash
    assert second.signer == "pipeline"
    assert ledger.champion("edit-r2", "champion").version == 2
    assert ledger.champion("edit-r2", "other") is None


def test_compare_and_set(ledger):
    first = ledger.append(draft(1))
    with pytest.raises(Conflict, match="version 1"):
        ledger.append(draft(2, None))
    with pytest.raises(Conflict, match="version 1"):
        ledger.append(draft(2, sha256(b"9")))
    ledger.append(draft(3, action="refuse", expected=sha256(b"9")))
    assert ledger.champion("edit-r2", "champion") == first.entry
    assert len(ledger.chain()) == 2


def test_the_same_act_is_entered_once(ledger):
    first = ledger.append(draft(1))
    assert ledger.append(draft(1, actor="bob")) == first
    refused = ledger.append(draft(2, action="refuse"))
    assert ledger.append(draft(2, action="refuse")) == refused
    ledger.append(draft(2, first.entry.model_digest))
    ledger.append(draft(1, sha256(b"2"), action="rollback"))
    again = ledger.append(draft(2, first.entry.model_digest))
    assert again.entry.index == 4, "after a rollback it is another act"


def test_champions_under_other_names_do_not_compete(ledger):
    ledger.append(draft(1))
    ledger.append(draft(2, alias="champion-small"))
    assert ledger.champion("edit-r2", "champion").version == 1
    assert ledger.champion("edit-r2", "champion-small").version == 2


def test_only_free_text_is_redacted(ledger, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "edit-r2")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "champion")
    entry = ledger.append(draft(1, reason="the password is edit-r2", actor="ada of /home/ada/work")).entry
    assert (entry.model, entry.alias, entry.reason) == ("edit-r2", "champion", "the password is ***")
    assert "/home" not in entry.actor
    assert ledger.champion("edit-r2", "champion") == entry


def test_a_store_without_conditional_writes_is_refused(tmp_path):
    with pytest.raises(UserError, match="overwrites"):
        open_ledger(tmp_path, BucketShelf(Bucket(conditional=False))).append(draft(1))


@pytest.fixture
def filled(tmp_path):
    ledger = open_ledger(tmp_path)
    previous = None
    for version in range(1, 6):
        previous = ledger.append(draft(version, previous)).entry.model_digest
    return ledger


def lines_of(ledger: Ledger) -> list[bytes]:
    return ledger.shelf.file.read_bytes().splitlines()


def test_every_altered_byte_is_found_at_its_entry(filled):
    lines = lines_of(filled)
    generator = random.Random(5)
    for _ in range(60):
        entry, altered = generator.randrange(5), [bytearray(line) for line in lines]
        position = generator.randrange(len(altered[entry]))
        altered[entry][position] ^= 1 << generator.randrange(8)
        with pytest.raises(LedgerError, match=rf"entry {entry} "):
            read_chain([bytes(line) for line in altered], filled.keys)


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        (lambda lines: lines[1:], 0),
        (lambda lines: lines[:2] + lines[3:], 2),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 1),
        (lambda lines: [*lines, lines[-1]], 5),
        (lambda lines: [*lines[:3], b"", *lines[3:]], 3),
    ],
    ids=["first removed", "one removed", "swapped", "repeated", "blank inserted"],
)
def test_entries_cannot_be_removed_moved_or_repeated(filled, change, entry):
    with pytest.raises(LedgerError, match=f"entry {entry} "):
        read_chain(change(lines_of(filled)), filled.keys)


def test_nothing_is_added_to_a_broken_ledger(filled):
    content = bytearray(filled.shelf.file.read_bytes())
    content[40] ^= 1
    filled.shelf.file.write_bytes(content)
    with pytest.raises(LedgerError):
        filled.append(draft(6, sha256(b"5")))


def test_an_entry_signed_by_a_stranger_is_refused(filled, tmp_path):
    stranger = Ledger(filled.shelf, filled.keys, load_identity(tmp_path / "elsewhere", "eve"))
    stranger.append(draft(6, sha256(b"5")))
    with pytest.raises(LedgerError, match=r"entry 5 .*trusted"):
        filled.chain()


@pytest.mark.parametrize("kept", [0, 1, 40, -1])
def test_a_torn_last_line_is_mended(filled, kept):
    lines, file = lines_of(filled), filled.shelf.file
    torn = lines[-1] if kept == -1 else lines[-1][:kept]
    file.write_bytes(b"".join(line + b"\n" for line in lines[:-1]) + torn)
    whole = 5 if kept == -1 else 4
    assert len(filled.chain()) == whole
    now = champion(filled.chain(), "edit-r2", "champion")
    filled.append(draft(6, now.model_digest))
    assert len(filled.chain()) == whole + 1
    assert file.read_bytes().endswith(b"\n")
    torn_files = list(file.parent.glob("torn-*"))
    assert len(torn_files) == (1 if kept > 0 else 0)


def test_recover_mends_without_an_append(filled):
    assert not filled.shelf.recover()
    file = filled.shelf.file
    file.write_bytes(file.read_bytes() + b'{"payload":"tor')
    assert filled.shelf.recover()
    assert len(read_chain(lines_of(filled), filled.keys)) == 5


def test_documents_are_named_by_their_content(tmp_path):
    for shelf in (FolderShelf(tmp_path / "ledger"), BucketShelf(Bucket())):
        name = shelf.put(b"evidence")
        assert (name, shelf.put(b"evidence")) == (sha256(b"evidence"), name)
        assert shelf.digests() == [name]
        assert shelf.get(name) == b"evidence"


def test_a_ledger_moves_into_a_bucket_whole_and_goes_on_where_that_was_cut_off(filled, monkeypatch):
    bucket = BucketShelf(Bucket())
    names = [filled.shelf.put(content) for content in (b"evidence", b"more of it")]
    lines = filled.shelf.lines()
    bucket.append(0, lines[0])
    for _ in range(2):
        assert copy(filled.shelf, bucket) == (len(lines), 2)
    assert bucket.lines() == lines and bucket.digests() == sorted(names)
    there = Ledger(bucket, filled.keys, filled.identity)
    assert there.champion("edit-r2", "champion") == filled.champion("edit-r2", "champion")
    there.append(draft(7, there.champion("edit-r2", "champion").model_digest))
    assert copy(filled.shelf, bucket) == (len(lines), 2) and len(bucket.lines()) == len(lines) + 1
    filled.append(draft(8, filled.champion("edit-r2", "champion").model_digest))
    with pytest.raises(UserError, match="another ledger"):
        copy(filled.shelf, bucket)
    with pytest.raises(UserError, match="no ledger here"):
        copy(FolderShelf(filled.shelf.folder / "none"), bucket)
    monkeypatch.setattr(FolderShelf, "get", lambda *_: b"altered")
    with pytest.raises(UserError, match="is damaged"):
        copy(filled.shelf, BucketShelf(Bucket()))


def test_a_missing_document_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="not kept"):
        FolderShelf(tmp_path).get("0" * 64)


def _contend(folder: Path, worker: int, rounds: int, results) -> None:
    """Promote against whoever is champion, `rounds` times; count own wins and refusals."""
    ledger, wins, refusals = open_ledger(folder), [], 0
    for turn in range(rounds):
        now = ledger.champion("edit-r2", "champion")
        try:
            wins.append(
                ledger.append(draft(1000 * worker + turn + 1, now.model_digest if now else None)).entry.expected
            )
        except Conflict:
            refusals += 1
    results.put((wins, refusals))


@pytest.mark.parametrize(("workers", "rounds"), [(4, 3), pytest.param(10, 5, marks=pytest.mark.slow)])
def test_one_winner_per_expected_champion(tmp_path, workers, rounds):
    open_ledger(tmp_path)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    started = [context.Process(target=_contend, args=(tmp_path, number, rounds, results)) for number in range(workers)]
    for process in started:
        process.start()
    found = [results.get(timeout=120) for _ in started]
    for process in started:
        process.join()
    wins = [expected for won, _ in found for expected in won]
    refusals = sum(refused for _, refused in found)
    chain = open_ledger(tmp_path).chain()
    print(f"\n{workers * rounds} promotions from {workers} processes: {len(wins)} entered, {refusals} refused")
    assert len(wins) + refusals == workers * rounds
    assert len(set(wins)) == len(wins), "two promotions replaced the same champion"
    assert len(chain) == len(wins)


def test_fifty_promotions_against_one_champion_have_one_winner(tmp_path):
    ledger = open_ledger(tmp_path)
    first = ledger.append(draft(1)).entry.model_digest
    others = [open_ledger(tmp_path) for _ in range(50)]
    outcomes = []
    for version, other in enumerate(others, start=2):
        try:
            outcomes.append(other.append(draft(version, first)).entry.version)
        except Conflict:
            outcomes.append(None)
    assert [version for version in outcomes if version] == [2]


@pytest.mark.slow
def test_kill_at_any_moment_leaves_a_whole_ledger(tmp_path):
    """100 processes that append without end are killed at random moments; every survivor can go on."""
    open_ledger(tmp_path)
    generator = random.Random(3)
    for _ in range(100):
        child = os.fork()
        if child == 0:
            mine = open_ledger(tmp_path)
            while True:
                now = mine.champion("edit-r2", "champion")
                mine.append(draft((now.version if now else 0) + 1, now.model_digest if now else None))
        time.sleep(generator.uniform(0.001, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        FolderShelf(tmp_path / "ledger").recover()
        open_ledger(tmp_path).chain()
    chain = open_ledger(tmp_path).chain()
    print(f"\n{len(chain)} entries after 100 kills")
    assert [signed.entry.version for signed in chain] == list(range(1, len(chain) + 1))
