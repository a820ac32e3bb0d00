from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli
from tasks.settings import settings

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "run",
    "build-dataset",
    "build-benchmark",
    "pretrain-base",
    "train-sft",
    "train-rl",
    "evaluate",
    "promote",
    "up",
    "deploy",
    "down",
    "status",
    "data",
    "import",
    "experiment",
    "lineage",
    "audit",
    "history",
    "rollback",
    "doctor",
}


def call(monkeypatch, capsys, *words):
    """Run the command line as the entry point does: exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["edit-r2", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


@pytest.fixture
def bare(tmp_path, monkeypatch):
    monkeypatch.setenv("EDIT_R2_HOME", str(tmp_path))
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_help_names_every_command_and_every_command_explains_itself():
    runner = CliRunner()
    listed = runner.invoke(cli.app, ["--help"]).output
    for name in COMMANDS:
        assert name in listed
        shown = runner.invoke(cli.app, [name, "--help"])
        assert shown.exit_code == 0 and len(shown.output) > 200


def test_help_loads_nothing_heavy():
    script = (
        "import sys; from flows import cli\n"
        "heavy = {'torch', 'mlflow', 'prefect', 'transformers', 'pandas', 'great_expectations', 'dvc', 'numpy'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or None)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_profile_is_one_line_with_the_choices(bare, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, "run", "--profile", "huge")
    assert code == 2 and out == ""
    assert err.count("\n") == 1 and "'huge'" in err and "smoke" in err and "Traceback" not in err


def test_machines_get_errors_as_json(bare, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, "run", "--profile", "huge", "--json")
    assert code == 2 and err == ""
    assert json.loads(out)["error"]["exit_code"] == 2


def test_debug_adds_the_trace(bare, monkeypatch, capsys):
    _, _, err = call(monkeypatch, capsys, "run", "--profile", "huge", "--debug")
    assert "Traceback" in err and err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("words", [("fly",), ("run", "--speed"), ("evaluate",)])
def test_a_mistake_on_the_command_line_shows_the_usage(monkeypatch, capsys, words):
    code, _, err = call(monkeypatch, capsys, *words)
    assert code == 2 and "Usage" in err


def test_a_store_that_does_not_answer_fails_at_once(bare, monkeypatch, capsys):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    code, _, err = call(monkeypatch, capsys, "run", "--profile", "smoke")
    assert code == 4 and f"MLflow does not answer at http://127.0.0.1:{port}" in err


def test_an_interrupt_has_its_own_code(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.services.running", interrupted)
    code, _, err = call(monkeypatch, capsys, "down")
    assert code == 130 and "go on" in err


def test_import_counts_and_quarantines(bare, tmp_path, monkeypatch, capsys):
    lines = (ROOT / "tests" / "data" / "published.jsonl").read_text().splitlines()[:3]
    file = tmp_path / "some.jsonl"
    file.write_text("\n".join([*lines, "{not json"]) + "\n")
    code, out, _ = call(monkeypatch, capsys, "import", "mice", str(file), "--out", str(tmp_path / "out"), "--json")
    found = json.loads(out)
    assert code == 0 and found["sessions_read"] == 4 and found["rows_quarantined"] == 1
    (defect,) = [
        entry
        for entry in map(json.loads, (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines())
        if entry["turn"] is None
    ]
    assert defect["line"] == 4 and defect["reason"]
    _, out, _ = call(monkeypatch, capsys, "import", "mice", str(file), "--out", str(tmp_path / "again"))
    assert "line 4" in out


def test_an_import_without_a_place_replaces_the_one_before_and_a_named_place_is_kept(
    bare, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("EDIT_R2_ROOT", str(tmp_path))
    settings.cache_clear()
    lines = (ROOT / "tests" / "data" / "published.jsonl").read_text().splitlines()
    file = tmp_path / "some.jsonl"
    for count in (3, 2):
        file.write_text("\n".join(lines[:count]) + "\n")
        code, out, _ = call(monkeypatch, capsys, "import", "mice", str(file), "--json")
        assert code == 0 and json.loads(out)["sessions_read"] == count
    place = tmp_path / "data" / "imported"
    assert [path.name for path in place.iterdir()] == ["some"]
    code, _, err = call(monkeypatch, capsys, "import", "mice", str(file), "--out", str(place / "some"))
    assert code == 2 and "not empty" in err


def test_importing_a_missing_file_is_an_error(bare, monkeypatch, capsys, tmp_path):
    code, _, err = call(monkeypatch, capsys, "import", "mice", str(tmp_path / "nope.jsonl"))
    assert code == 2 and "nope.jsonl" in err
