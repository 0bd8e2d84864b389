import importlib
import importlib.metadata
import inspect
import sys
import types
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import graphsurgery
from graphsurgery import plugins
from graphsurgery.errors import InputError
from graphsurgery.plugins import source_file
from graphsurgery.rewrite import GraphPass, ModelPass, NodePass
from graphsurgery.rewrite.registry import ENTRY_POINT_GROUP, Registry, discover, picture, suggest

ROOT = Path(graphsurgery.__file__).parent.parent
FILES = sorted(path for path in (ROOT / "passes").glob("*.py") if not path.name.startswith("_"))

PLUGIN = '''
"""Drops nothing."""
from dataclasses import dataclass
from graphsurgery.rewrite import NodePass

@dataclass(frozen=True)
class Mine(NodePass):
    name = "my-pass"
    effect = "exact"
    limit: int = 3
'''


@pytest.fixture(autouse=True)
def _forget_plugins() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("graphsurgery_plugin_"):
            del sys.modules[name]


def plugin(folder: Path, text: str, name: str = "plug.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, found: Registry | None = None) -> str:
    with pytest.raises(InputError) as caught:
        (found or Registry()).add_plugin(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the passes of this project -----------------------------------------------------------------------------------


def test_there_are_passes() -> None:
    assert len(FILES) >= 5


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_holds_one_pass_of_its_name_with_a_picture_and_a_test(file: Path) -> None:
    module = importlib.import_module(f"graphsurgery.passes.{file.stem}")
    found = Registry()
    assert found.add_module(module) == 1
    name = file.stem.replace("_", "-")
    assert found.names() == [name]
    pass_ = found.get(name)
    assert pass_.__name__ == "".join(word.capitalize() for word in file.stem.split("_"))
    assert Path(source_file(pass_)) == file
    assert picture(pass_) == inspect.cleandoc(module.__doc__ or "")
    assert len(picture(pass_).splitlines()) > 3
    assert (ROOT / "tests" / "passes" / f"test_{file.stem}.py").is_file()


def test_a_pass_that_takes_outputs_apart_is_found_by_what_writes_them() -> None:
    found = discover()
    assert found.outputs_apart("Concat") == ["split-detection-output"]
    assert {"split-concat", "split-detection-output"} <= {*found.looking_at("Concat")}
    assert found.outputs_apart("Conv") == []


def test_discovery_finds_them_all_and_nothing_private() -> None:
    names = discover().names()
    assert set(names) >= {file.stem.replace("_", "-") for file in FILES}
    assert names == sorted(names)


def test_no_pass_is_imported_as_a_module_of_its_own() -> None:
    discover()
    assert not [name for name in sys.modules if name == "passes" or name.startswith("passes.")]


# --- plug-ins -----------------------------------------------------------------------------------------------------


def test_a_plugin_brings_its_passes(tmp_path: Path) -> None:
    path = plugin(tmp_path, PLUGIN)
    found = discover([path])
    pass_ = found.get("my-pass")
    assert pass_(limit=4).limit == 4  # type: ignore[call-arg,attr-defined]
    assert Path(source_file(pass_)) == path
    assert picture(pass_) == "Drops nothing."


def test_a_plugin_may_hold_several_passes_and_their_private_base(tmp_path: Path) -> None:
    text = PLUGIN.replace("Mine(NodePass)", "_Base(NodePass)").replace('    name = "my-pass"\n', "")
    text += "\n".join(
        f'@dataclass(frozen=True)\nclass P{n}(_Base):\n    name = "pass-{n}"\n    effect = "exact"\n' for n in (1, 2)
    )
    found = Registry()
    found.add_plugin(plugin(tmp_path, text))
    assert found.names() == ["pass-1", "pass-2"]


def test_a_plugin_that_is_given_twice_is_run_once(tmp_path: Path) -> None:
    path = plugin(tmp_path, PLUGIN + f"\nopen({str(tmp_path / 'log')!r}, 'a').write('x')\n")
    discover([path, tmp_path / "." / path.name])
    assert (tmp_path / "log").read_text(encoding="utf-8") == "x"


def test_two_plugins_may_have_one_file_name(tmp_path: Path) -> None:
    first = plugin(tmp_path / "a", PLUGIN)
    second = plugin(tmp_path / "b", PLUGIN.replace("my-pass", "other-pass"))
    found = discover([first, second])
    assert Path(source_file(found.get("my-pass"))) == first
    assert Path(source_file(found.get("other-pass"))) == second


def test_two_passes_of_one_name_are_refused_with_both_files(tmp_path: Path) -> None:
    first, second = plugin(tmp_path / "a", PLUGIN), plugin(tmp_path / "b", PLUGIN)
    found = Registry()
    found.add_plugin(first)
    message = refusal(second, found)
    assert str(first) in message
    assert str(second) in message


def test_a_plugin_can_not_take_the_name_of_a_pass_of_ours(tmp_path: Path) -> None:
    path = plugin(tmp_path, PLUGIN.replace("my-pass", "widen-maxpool"))
    with pytest.raises(InputError, match=r"widen-maxpool.*widen_maxpool\.py"):
        discover([path])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"exact"', '"fast"', "must declare effect 'exact' or 'approximate', not 'fast'"),
        ('    effect = "exact"\n', "", "must declare effect"),
        ('"my-pass"', '"My_Pass"', "kebab-case name, not 'My_Pass'"),
        ('    name = "my-pass"\n', "", "kebab-case name, not None"),
        ('name = "my-pass"', 'name: str = "my-pass"', "without a type"),
        ('effect = "exact"', 'effect: str = "exact"', "without a type"),
        ("@dataclass(frozen=True)\n", "", "has options, so it must be a @dataclass"),
        ("@dataclass(frozen=True)\n", "@dataclass\n", "cannot inherit non-frozen"),
        ("class Mine(NodePass):", "class Mine(NodePass:", "SyntaxError"),
        ("class Mine", "import no_such_package\nclass Mine", "ModuleNotFoundError"),
        ("class Mine", "raise ValueError('a\\nb')\nclass Mine", "ValueError: a"),
        ("class Mine", "import sys; sys.exit(3)\nclass Mine", "SystemExit: 3"),
        ("(NodePass)", "", "defines no NodePass, GraphPass, ModelPass or CustomOperator"),
        ("(NodePass)", "(__import__('graphsurgery.rewrite', fromlist=['x']).Pass)", "defines no NodePass"),
    ],
)
def test_a_plugin_that_is_wrong_is_refused_with_its_file(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in PLUGIN
    text = PLUGIN.replace(old, new)
    if new.startswith(("import", "raise")):
        text = PLUGIN.replace("@dataclass(frozen=True)\nclass Mine", new.replace("class Mine", "") + "class Mine")
    path = plugin(tmp_path, text)
    message = refusal(path)
    assert message.startswith(str(path))
    assert said in message


def test_a_pass_without_options_is_a_plain_class(tmp_path: Path) -> None:
    text = PLUGIN.replace("@dataclass(frozen=True)\n", "").replace("    limit: int = 3\n", "")
    passes = discover([plugin(tmp_path, text)])
    mine = passes.get("my-pass")
    assert mine() == mine()
    assert mine() != passes.get("drop-identity")()


def test_a_value_that_the_literal_of_an_option_does_not_list_is_refused(tmp_path: Path) -> None:
    text = PLUGIN.replace("    limit: int = 3", '    by: Literal["row", "column"] = "row"')
    mine = discover([plugin(tmp_path, f"from typing import Literal\n{text}")]).get("my-pass")
    assert mine(by="column") != mine()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="by must be one of row, column, not diagonal"):
        mine(by="diagonal")  # type: ignore[call-arg]


def test_a_plugin_that_fails_leaves_no_module_behind(tmp_path: Path) -> None:
    before = set(sys.modules)
    refusal(plugin(tmp_path, "1 / 0"))
    assert not [name for name in set(sys.modules) - before if name.startswith("graphsurgery_plugin_")]


def test_refuses_a_plugin_that_is_missing_a_folder_or_no_python(tmp_path: Path) -> None:
    assert "no such plug-in file" in refusal(tmp_path / "none.py")
    assert "no such plug-in file" in refusal(tmp_path)
    assert "a plug-in is a Python file" in refusal(plugin(tmp_path, PLUGIN, "plug.txt"))


# --- entry points -------------------------------------------------------------------------------------------------


def entry(monkeypatch: pytest.MonkeyPatch, text: str, attribute: str | None) -> None:
    """Pretend that an installed package announces an entry point."""
    module = types.ModuleType("installed_passes")
    monkeypatch.setitem(sys.modules, "installed_passes", module)
    exec(text, vars(module))
    value = "installed_passes" + (f":{attribute}" if attribute else "")
    points = [EntryPoint("announced", value, ENTRY_POINT_GROUP)]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == ENTRY_POINT_GROUP else [])


@pytest.mark.parametrize("attribute", [None, "Mine"])
def test_an_entry_point_brings_a_module_of_passes_or_one_pass(
    monkeypatch: pytest.MonkeyPatch, attribute: str | None
) -> None:
    entry(monkeypatch, PLUGIN, attribute)
    assert "my-pass" in discover().names()


@pytest.mark.parametrize(
    ("attribute", "said"), [("Gone", "AttributeError"), ("dataclass", "no NodePass"), ("NUMBER", "no NodePass")]
)
def test_an_entry_point_that_brings_no_pass_is_refused(
    monkeypatch: pytest.MonkeyPatch, attribute: str, said: str
) -> None:
    entry(monkeypatch, PLUGIN + "\nNUMBER = 3\n", attribute)
    with pytest.raises(InputError, match=said):
        discover()


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matches", "said"),
    [
        ('("Convv",)', "matches 'Convv', and ONNX has no such operator. Did you mean 'Conv'?"),
        ('("Conv")', "must declare matches as a tuple of operators"),
        ('["Conv"]', "must declare matches as a tuple of operators"),
        ("(3,)", "must declare matches as a tuple of operators"),
        ('("com.microsoft.",)', "must declare matches as a tuple of operators"),
    ],
)
def test_a_plugin_that_matches_what_is_no_operator_is_refused(tmp_path: Path, matches: str, said: str) -> None:
    assert said in refusal(plugin(tmp_path, f"{PLUGIN}    matches = {matches}\n"))


def test_passes_are_found_by_the_operator_that_they_look_at(tmp_path: Path) -> None:
    found = Registry()
    found.add_plugin(plugin(tmp_path, f'{PLUGIN}    matches = ("Conv", "com.microsoft.Gelu")\n'))
    assert found.looking_at("Conv") == found.looking_at("com.microsoft.Gelu") == ["my-pass"]
    with pytest.raises(InputError, match=r"no pass looks at operator 'Konv'\. Did you mean 'Conv'\?"):
        found.looking_at("Konv")
    assert (found.passes_for("Conv"), found.passes_for("Konv")) == (["my-pass"], [])


def test_an_unknown_name_comes_with_the_nearest_one() -> None:
    with pytest.raises(
        InputError, match=r"unknown pass 'widen-maxpol'\. Did you mean 'widen-maxpool'\? See: python -m"
    ):
        discover().get("widen-maxpol")
    assert suggest("xyzzy", ["widen-maxpool"]) == " See: python -m graphsurgery passes"


@pytest.mark.parametrize("base", [NodePass, GraphPass, ModelPass])
def test_the_kinds_of_passes_are_no_passes(base: type) -> None:
    module = types.ModuleType(base.__module__)
    module.Kind = base  # type: ignore[attr-defined]
    assert Registry().add_module(module) == 0
