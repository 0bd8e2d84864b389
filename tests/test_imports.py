"""Which module may import which. Counted are all imports: those inside functions and under TYPE_CHECKING too."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP_FILES = 8

# The rooms, the lowest first: one imports from itself and from those before it. passes/ stands where its imports end;
# nothing imports it, since passes are found. Files at the top of graphsurgery/ are rooms of their own.
ORDER = (
    *("text", "errors", "plugins", "files", "strict_yaml", "progress", "version"),
    *("graph", "custom_ops", "images", "video", "detections", "devices", "rewrite", "operators"),
    *("processes", "toolchains", "quantize", "passes"),
    *("demo", "sources", "capture", "parts", "runtime", "gate", "targets", "partition"),
    *("compiling", "compilers", "recipe", "probing", "testing", "debugging", "evaluation", "picture", "report"),
    *("search", "pipeline", "sweep", "cli"),
    *("__main__", "graphsurgery"),  # the latter is graphsurgery/__init__.py
)
# A pass imports what it is made of, and the tool that it puts into a recipe. `images` is one: drop-preprocessing takes
# out of the graph what the runtime does with it, and tells it by its result.
FOR_PASSES = {"errors", "graph", "rewrite", "operators", "passes"} | {"processes", "quantize", "images"}
# What takes long to import, or may not be installed, and the rooms that may import it
HEAVY = {
    "torch": {"sources", "demo"},
    "torchvision": {"sources", "demo"},
    "onnxruntime": {"devices", "quantize"},
    "onnxsim": {"processes"},
    "av": {"video"},
}


@cache
def modules() -> dict[str, Path]:
    """All modules of the framework and the passes, by their dotted names."""
    found = {}
    for folder, package in (("graphsurgery", "graphsurgery"), ("passes", "graphsurgery.passes")):
        for file in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join((package, *file.relative_to(ROOT / folder).with_suffix("").parts))
            found[name.removesuffix(".__init__")] = file
    return found


def imported(file: Path) -> Iterator[str]:
    """Yield what a file imports, as far as it can be told: `from a import b` is a.b where that is a module."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: write the import out from graphsurgery on"
            package = str(node.module)
            for alias in node.names:
                yield f"{package}.{alias.name}" if f"{package}.{alias.name}" in modules() else package


@cache
def graph() -> dict[str, set[str]]:
    """Which modules each module imports."""
    return {name: {found for found in imported(file) if found in modules()} for name, file in modules().items()}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def test_no_circle_of_imports() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_imports_point_one_way_between_rooms() -> None:
    assert {room(name) for name in modules()} == set(ORDER), "a new room needs a place in ORDER"
    place = {name: index for index, name in enumerate(ORDER)}
    upward = [(a, b) for a, read in graph().items() for b in read if place[room(b)] > place[room(a)]]
    assert not upward


def test_a_pass_imports_what_it_is_made_of_and_its_tool() -> None:
    beyond = [(a, b) for a, read in graph().items() if room(a) == "passes" for b in read if room(b) not in FOR_PASSES]
    assert not beyond


def test_nothing_imports_a_pass_by_name() -> None:
    assert not [(a, b) for a, read in graph().items() for b in read if room(b) == "passes" != room(a)]


def test_nothing_imports_a_custom_operator_by_name() -> None:
    assert not [(a, b) for a, read in graph().items() for b in read if room(b) == "custom_ops" != room(a)]


@pytest.mark.parametrize("package", HEAVY)
def test_only_some_rooms_import(package: str) -> None:
    importing = {room(name) for name, file in modules().items() if package in {n.split(".")[0] for n in imported(file)}}
    assert importing <= HEAVY[package]


def test_importing_the_package_imports_none_of_them() -> None:
    code = f"import sys, graphsurgery; print([name for name in {list(HEAVY)} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_command_line_imports_what_a_command_needs_when_it_runs() -> None:
    heavy = [*HEAVY, "numpy", "onnx", "pydantic"]
    code = f"import sys, graphsurgery.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_few_files_stand_outside_of_the_rooms() -> None:
    assert len(list((ROOT / "graphsurgery").glob("*.py"))) <= TOP_FILES


def test_a_wheel_holds_every_room() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {name for name, file in modules().items() if file.name == "__init__.py"}
    assert set(listed) == folders | {"graphsurgery.recipes"}
