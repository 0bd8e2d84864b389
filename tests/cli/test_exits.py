"""How a command ends, and what of a stranger's words reaches the terminal."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, helper

from graphsurgery.report import terminal
from graphsurgery.text import shortened, visible

EVIL = "\x1b[31m\x1b[2J\x00\x07\x9b31m\u202eevil\r"
FOREIGN = "日本é✓"
ROOT = Path(__file__).parent.parent.parent

# Presses Ctrl-C at the N-th of the moments that Python tells of: each import, and each file that is opened
PRESS = """\
import signal, sys

left = {moment}


def listen(event, arguments):
    global left
    if event in ("import", "open") and "graphsurgery.cli" in sys.modules:
        left -= 1
        if left == 0:
            signal.raise_signal(signal.SIGINT)


sys.addaudithook(listen)
"""
AT_EXIT = """\
import atexit, signal, sys

sys.addaudithook(lambda event, arguments: event == "import" and arguments[0] == "graphsurgery.cli"
                 and atexit.register(signal.raise_signal, signal.SIGINT))
"""


@pytest.fixture(autouse=True)
def ctrl_c_is_answered() -> Iterator[None]:
    """A job in the background is started with Ctrl-C ignored, and its children are too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def model(name: str = "x", op: str = "Neg", size: str = "N") -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node(op, [name], ["y"])],
        "g",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [size])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def ended(folder: Path, *arguments: object, site: str = "", encoding: str = "utf-8") -> tuple[int, bytes]:
    """Run a command in a process of its own, with a sitecustomize.py; return its code and what it wrote."""
    (folder / "sitecustomize.py").write_text(site, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "graphsurgery", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
            "PYTHONIOENCODING": encoding,
        },
        timeout=120,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("command", "encoding", "name"),
    [
        ("inspect", "cp1252", EVIL),
        ("inspect", "ascii", FOREIGN),
        ("check", "cp1252", FOREIGN),
        ("check", "ascii", EVIL),
    ],
)
def test_names_are_written_out_in_any_encoding(tmp_path: Path, command: str, encoding: str, name: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model(name, name, name).SerializeToString())
    code, wrote = ended(tmp_path, command, *([path] if command == "inspect" else [path, path]), encoding=encoding)
    assert code == (0 if command == "inspect" else 2), wrote  # there is no such operator
    assert b"\\" in wrote
    assert not re.search(rb"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)", wrote)  # Windows ends its lines with \r\n
    assert b"Traceback" not in wrote


ENDLESS = f"""<ir_version: 8, opset_import: ["": 17]>
g (float[1,3,8,8] x) => (float[1,3,8,8] y) <int64 n = {{{1 << 62}}}, bool c = {{1}}> {{
    y = Loop (n, c, x) <body = b (int64 i, bool d, float[1,3,8,8] a) => (bool e, float[1,3,8,8] s) {{
        e = Identity (d)  s = Neg (a) }}>
}}"""
PRESS_IN_A_RUN = """
import signal, sys, threading, time
def press():
    while not getattr(sys.modules.get("graphsurgery.devices.time_limit"), "_ends", None):
        time.sleep(0.01)
    time.sleep(0.3)
    began.append(time.monotonic())
    signal.raise_signal(signal.SIGINT)
began = []
threading.Thread(target=press, daemon=True).start()
import os
leave = os._exit
def noted(code):
    print("SECONDS", time.monotonic() - began[0], flush=True)
    leave(code)
os._exit = noted
"""


def test_ctrl_c_ends_a_run_of_onnx_runtime_and_leaves_nothing(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(ENDLESS), tmp_path / "m.onnx")
    (tmp_path / "r.yaml").write_text("source: {onnx: m.onnx}\n", encoding="utf-8")
    before = {*tmp_path.iterdir(), tmp_path / "sitecustomize.py", tmp_path / "__pycache__"}
    arguments = ("capture", tmp_path / "r.yaml", "--model-io", tmp_path / "io")
    code, wrote = ended(tmp_path, *arguments, site=PRESS_IN_A_RUN)
    assert code == 130, wrote
    assert b"interrupted; no output is half written" in wrote
    assert float(wrote.split(b"SECONDS ")[1]) < 3  # one, and a machine that does much else
    assert {*tmp_path.iterdir()} <= before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows raises no SIGINT in its own process")
@pytest.mark.parametrize("moment", [1, 20, 300, 800, 1100])
def test_ctrl_c_is_130_at_any_time(tmp_path: Path, moment: int) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model().SerializeToString())
    code, wrote = ended(tmp_path, "inspect", path, site=PRESS.format(moment=moment))
    assert code == 130, wrote
    assert b"Traceback" not in wrote


@pytest.mark.skipif(sys.platform == "win32", reason="Windows raises no SIGINT in its own process")
def test_ctrl_c_is_130_as_the_command_exits(tmp_path: Path) -> None:
    code, wrote = ended(tmp_path, "--version", site=AT_EXIT)
    assert code == 130
    assert b"Traceback" not in wrote


def test_a_long_name_does_not_fill_pages(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model("a" * 300_000, "b" * 300_000, "c" * 300_000).SerializeToString())
    code, wrote = ended(tmp_path, "inspect", path)
    assert code == 0
    assert len(wrote) < 10_000
    code, wrote = ended(tmp_path, "check", path, path)
    assert code == 2
    assert len(wrote.splitlines()) == 1
    assert len(wrote) < 400


def test_what_can_not_be_printed_is_written_out() -> None:
    assert visible("plain é日\n") == "plain é日\n"
    assert visible(EVIL) == r"\x1b[31m\x1b[2J\x00\x07\x9b31m\u202eevil\r"
    assert visible("\udcff") == r"\udcff"


def test_of_a_long_text_the_middle_is_left_out() -> None:
    assert shortened("short", 5) == "short"
    cut = shortened("a" * 50 + "b" * 50, 30)
    assert (len(cut), cut) == (30, "a" * 10 + " ... " + "b" * 15)


def test_a_screen_shows_what_a_terminal_would_obey() -> None:
    file = io.StringIO()
    screen = terminal.Screen(file=file, width=100, force_terminal=True, color_system="standard")
    screen.print(terminal.plain_table(EVIL, ["a"], [[EVIL]]))
    screen.print(EVIL, markup=False, highlight=False)
    screen.print("[red]red[/]")
    assert file.getvalue().count(r"\x1b[31m\x1b[2J") == 3
    assert "\x1b[2J" not in file.getvalue()
    assert "\x1b[31mred" in file.getvalue()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows raises no SIGINT in its own process")
def test_ctrl_c_that_a_library_swallows_counts(capsys: pytest.CaptureFixture[str]) -> None:
    from graphsurgery.cli.exits import one_line_errors

    def swallow(wrapped: bool) -> None:
        with one_line_errors(debug=False):
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt as error:
                if wrapped:
                    raise ImportError("initialization failed") from error

    for wrapped in (True, False):
        with pytest.raises(SystemExit) as caught:
            swallow(wrapped)
        assert caught.value.code == 130
        assert capsys.readouterr().err.startswith("interrupted")


def test_too_little_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from graphsurgery.cli.exits import one_line_errors

    with pytest.raises(SystemExit) as caught, one_line_errors(debug=False):
        raise MemoryError
    assert caught.value.code == 2
    assert "takes more memory than there is" in capsys.readouterr().err
