from pathlib import Path

import pytest

from graphsurgery.compiling.registry import discover
from graphsurgery.errors import InputError

COMPILER = """
from dataclasses import dataclass
from graphsurgery.compiling import Compiler
{decorator}
class Mine(Compiler):
    name = {name!r}
    chip: str = "x"
"""


def plugin(folder: Path, name: str, decorator: str = "@dataclass(frozen=True)") -> Path:
    path = folder / "mine.py"
    path.write_text(COMPILER.format(name=name, decorator=decorator))
    return path


def test_files_of_the_package_and_plugins_are_found(tmp_path: Path) -> None:
    built_in = discover().names()
    assert {"ascend", "magicmind", "riscv-ort"} <= set(built_in)
    assert discover([plugin(tmp_path, "mine")]).names() == sorted([*built_in, "mine"])


@pytest.mark.parametrize(
    ("name", "decorator", "message"),
    [
        ("ascend", "@dataclass(frozen=True)", r"compiler 'ascend' is also defined in .*mine\.py"),
        ("A b", "@dataclass(frozen=True)", "needs a name in lower case, not 'A b'"),
        ("mine", "", "compiler 'mine' must be a @dataclass"),
    ],
)
def test_a_wrong_declaration_is_told(tmp_path: Path, name: str, decorator: str, message: str) -> None:
    with pytest.raises(InputError, match=r"mine\.py: .*" + message.replace(r".*mine\.py", ".*ascend.py")):
        discover([plugin(tmp_path, name, decorator)])


def test_a_file_without_a_compiler_is_told(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("x = 1\n")
    with pytest.raises(InputError, match=r"none\.py: the plug-in defines no Compiler"):
        discover([tmp_path / "none.py"])
