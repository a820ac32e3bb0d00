"""Atomic writes: whole or not at all, and nothing left behind."""

from __future__ import annotations

import pytest

from model.atomic import replace_folder, replacing, standing, write_atomically
from tasks.canonical import canonical, plain


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_with_its_mode(tmp_path):
    target = tmp_path / "deep" / "file"
    write_atomically(target, b"one")
    write_atomically(target, b"two", mode=0o600)
    assert target.read_bytes() == b"two" and target.stat().st_mode & 0o777 == 0o600
    assert names(target.parent) == ["file"]


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file"
    write_atomically(target, b"old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_the_new_bytes_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    """The order that a power cut cannot undo: the file's bytes, the rename, the folder's names."""
    import os
    from pathlib import Path

    order, replace, sync = [], Path.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("flush"), sync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, target: (order.append("rename"), replace(self, target))[1])
    write_atomically(tmp_path / "file", b"x")
    assert order == ["flush", "rename", "flush"]


def folder_of(path, content):
    path.mkdir()
    (path / "file").write_text(content)
    return path


@pytest.mark.parametrize("aside", [False, True])
@pytest.mark.parametrize("killed_at", [1, 2, 3, 4])
def test_a_kill_at_any_step_of_a_replacement_leaves_a_whole_folder(tmp_path, monkeypatch, killed_at, aside):
    """Also where the folder that is replaced was itself left aside by a kill."""
    import shutil
    from pathlib import Path

    calls, rename, rmtree = [], Path.rename, shutil.rmtree

    def counted(act):
        def do(*arguments, **words):
            calls.append(act)
            if len(calls) == killed_at:
                raise KeyboardInterrupt
            return act(*arguments, **words)

        return do

    final = folder_of(tmp_path / "final", "old")
    if aside:
        final.rename(tmp_path / "final.old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted(rename))
        patch.setattr(shutil, "rmtree", counted(rmtree))
        try:
            replace_folder(folder_of(tmp_path / "new", "new"), final)
        except KeyboardInterrupt:
            assert calls
    assert (standing(final) / "file").read_text() in ("old", "new")
    shutil.rmtree(tmp_path / "new", ignore_errors=True)
    replace_folder(folder_of(tmp_path / "new", "newer"), final)
    assert (standing(final) / "file").read_text() == "newer" and names(tmp_path) == ["final"]
    assert standing(tmp_path / "other") is None


def test_paths_and_dataclasses_have_a_spelling_only_where_it_is_asked_for(tmp_path):
    from tasks.retention import Rule

    with pytest.raises(TypeError):
        canonical({"where": tmp_path})
    assert canonical({"where": tmp_path}, plain) == f'{{"where":"{tmp_path}"}}'.encode()
    assert b'"keep_last":3' in canonical(Rule(3, None), plain)
