"""What a terminal, a pipe and a full disk behind it get to see, and the help."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Applied, Cli

from cli.children import child_environment, process

COMMANDS = (
    *("apply", "capture", "run", "evaluate", "bench", "placement", "report", "quantize"),
    *("check", "bisect", "reduce", "inspect", "passes", "new-pass"),
)


# --- the screen -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(cli: Cli, command: str) -> None:
    outcome = cli(command, "--help")
    assert outcome.code == 0
    assert f"Example: python -m graphsurgery {command}" in " ".join(outcome.out.replace("│", " ").split())


def test_without_a_command_the_commands_are_shown(cli: Cli) -> None:
    outcome = cli()
    assert outcome.code == 2
    assert all(command in outcome.out + outcome.err for command in COMMANDS)
    assert "error" not in outcome.err


def test_version_is_one_line(cli: Cli) -> None:
    outcome = cli("--version")
    assert (outcome.code, outcome.out.count("\n"), outcome.err) == (0, 1, "")


def test_a_run_fits_eighty_columns(detector: Applied, tmp_path: Path) -> None:
    for file in ("detector.yaml", "detector.onnx"):
        shutil.copy(detector.folder.parent / file, tmp_path)
    shutil.copytree(detector.model_io, tmp_path / "model" / "model_io" / "detector")
    outcome = process("apply", "detector.yaml", "--set", "passes=[simplify]", cwd=tmp_path, COLUMNS="80")
    assert outcome.code == 0, outcome.err
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert max(map(len, outcome.err.splitlines()), default=0) <= 80
    assert "6 parts in " in outcome.out


def test_the_embedded_run_fits_eighty_columns(shapes: Applied) -> None:
    *tables, last, report = shapes.outcome.out.rstrip("\n").split("\n")
    assert max(map(len, tables)) <= 80
    assert last.startswith("6 parts in ")
    assert report == f"report: {shapes.folder / 'report.html'}"


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal is made with the standard library's pty")
@pytest.mark.parametrize("plain", [False, True])
def test_a_terminal_gets_no_escape_codes_where_no_color_is_set(plain: bool) -> None:
    import pty

    ours, theirs = pty.openpty()
    more = {"NO_COLOR": "1"} if plain else {}
    child = subprocess.Popen(
        [sys.executable, "-m", "graphsurgery", "passes"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=child_environment(TERM="xterm-256color", **more),
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so at the end
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert child.wait(60) == 0
    assert b"widen-maxpool" in shown
    assert (b"\x1b[" in shown) != plain


@pytest.mark.parametrize("arguments", [("passes",), ("passes", "--json", "-")])
def test_a_reader_that_stops_early_is_no_error(arguments: tuple[str, ...]) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "graphsurgery", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    complaints = child.stderr.read().decode()
    child.stderr.close()
    assert child.wait(60) == 0
    assert "rror" not in complaints
    assert "Traceback" not in complaints


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("arguments", [("passes",), ("passes", "--json", "-")])
def test_a_full_disk_behind_standard_output_is_one_line(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "graphsurgery", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=child_environment(),
            timeout=60,
        )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: input/output: No space left on device"
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a shell closes the stream")
def test_a_closed_standard_output_is_no_error() -> None:
    command = f'exec "{sys.executable}" -m graphsurgery passes >&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, env=child_environment(), timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_debug_shows_the_traceback(cli: Cli) -> None:
    outcome = cli("apply", "nothing", "--debug")
    assert outcome.code == 2
    assert "Traceback (most recent call last)" in outcome.err
    assert outcome.last_line.startswith("error: unknown recipe 'nothing'")
    assert "Traceback" not in cli("apply", "nothing").err
