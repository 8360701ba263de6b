"""Hostile inputs through the command line: a result or a one-line error, never a traceback, and nothing is run.

One of each kind runs by default, in this process; all of them, and some in processes of their own, are slow tests.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from inputs.hostile import MARKER, Hostile, catalogue

cli = pytest.importorskip("convscope.cli")

CATALOGUE = catalogue()
# Of each kind one, an error where it has one: errors are quick, and the doors' own tests see all that succeed.
_FIRST = list({h.kind: h for h in sorted(CATALOGUE, key=lambda h: h.fails is True)}.values())
_ALIVE = ("<script>alert(1)", "<img src=x onerror", "<b>images</b>")


def arguments(hostile: Hostile, folder: Path) -> list[str]:
    command = hostile.make(folder)
    words = command.arguments()
    if command.command != "render" and "-o" not in command.options:
        words[1:1] = ["-o", str(folder / "out.html")]
    return words


def judge(hostile: Hostile, folder: Path, status: int, out: str, err: str) -> None:
    assert not (folder / MARKER).exists(), "code was run"
    assert "Traceback" not in out + err
    assert status in {0, 1, 2}
    if status:
        # Click writes the usage above an error in the words themselves (status 2); ours are one line (status 1).
        said = [line for line in err.splitlines() if line.strip()]
        assert said, "failed without a word"
        assert status == 2 or "rror" in said[-1]
    if hostile.fails:
        assert status != 0
    page = folder / "out.html"
    if status == 0 and page.exists():
        text = page.read_text(encoding="utf-8")
        assert not [words for words in _ALIVE if words in text], "a name was not escaped"


def run_here(hostile: Hostile, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    result = CliRunner().invoke(cli.main, arguments(hostile, folder), prog_name="convscope")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"{hostile} ended in a traceback") from result.exception
    judge(hostile, folder, result.exit_code, result.stdout, result.stderr)


@pytest.mark.parametrize("hostile", _FIRST, ids=str)
def test_one_of_each_kind(hostile, tmp_path, monkeypatch):
    run_here(hostile, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("hostile", CATALOGUE, ids=str)
def test_every_hostile_input(hostile, tmp_path, monkeypatch):
    run_here(hostile, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("hostile", CATALOGUE[::40], ids=str)
def test_some_in_processes_of_their_own(hostile, tmp_path):
    words = arguments(hostile, tmp_path)
    if any("\0" in word for word in words):
        pytest.skip("no operating system passes such a word")
    source = Path(__file__).parents[2]
    path = os.pathsep.join([str(source / "src"), str(source / "tests")])
    result = subprocess.run(
        [sys.executable, "-m", "convscope", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )
    judge(hostile, tmp_path, result.returncode, result.stdout, result.stderr)
