"""Traps of YAML: what each reads as, or the file, line and advice that it is refused with."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from graphsurgery.errors import RecipeError
from graphsurgery.strict_yaml.positions import (
    MAX_BYTES,
    MAX_DEPTH,
    Fields,
    Items,
    Place,
    parse_yaml,
    plain,
    quoted,
    read_yaml,
)

START = Place("x.yaml", 1, Path("folder"))

SAMPLE = """\
source:
  demo: shapes   # a comment
  size: [256, 320]
passes:
  - freeze-shapes: {batch: 1}
  - "simplify"
check: {tolerance: {"*": 1.0e-4, masks: {relative: 0.5}}}
text: |
  two
  lines
"""


def value_of(text: str) -> object:
    return plain(parse_yaml(f"key: {text}", START))["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-17", -17),
        ("+3", 3),
        ("1.0e-4", 1e-4),
        (".5", 0.5),
        ("2.", 2.0),
        ("'010'", "010"),
        ('"1e-4"', "1e-4"),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("random:0", "random:0"),
        ("C:\\data", "C:\\data"),
        ("v1.2.3", "v1.2.3"),
        ("0b12", "0b12"),
        ("nan", "nan"),
    ],
)
def test_reads_a_plain_value_as_what_it_looks_like(text: str, value: object) -> None:
    read = value_of(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "y", "n", "True", "FALSE", "2020-01-01", "1:30", "=", "<<"])
def test_keeps_what_yaml_1_1_would_turn_into_something_else_as_text(text: str) -> None:
    assert value_of(text) == text


@pytest.mark.parametrize("text", ["on", "yes", "true", "null", "1", "2020-01-01"])
def test_takes_every_key_as_text(text: str) -> None:
    assert plain(parse_yaml(f"{text}: 1", START)) == {text: 1}


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("1e-4", "1.0e-4"),
        ("1e4", "1.0e+4"),
        ("1.5e3", "1.5e+3"),
        ("-.5", "-0.5"),
        ("010", "10"),
        ("0x10", "16"),
        ("-0b11", "-3"),
        ("0o17", "15"),
        ("1_000", "1000"),
        ("1_0.2_5", "10.25"),
        ("5e-05", "5.0e-05"),
    ],
)
def test_refuses_a_number_that_readers_disagree_on_and_says_what_to_write(text: str, advice: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_yaml(f"a: 1\n\nkey:\n  {text}", START)
    assert str(caught.value) == (
        f"x.yaml:4: {text} is a number to some YAML readers and text to others; "
        f"write {advice}, or quote it if it is text"
    )
    assert isinstance(value_of(advice), int | float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml:3: duplicate key 'a'; it stands at x.yaml:1 already"),
        ("a: {b: 1,\n b: 2}", "x.yaml:2: duplicate key 'b'; it stands at x.yaml:1 already"),
        ("a: &x 1\nb: *x", "x.yaml:1: the anchor &x is not allowed; write the value out where it is needed"),
        ("a: 1\nb: *x", "x.yaml:2: the alias *x is not allowed; write the value out, or quote a name that"),
        ("a: 1\n*x : 1", "x.yaml:2: the alias *x is not allowed"),
        ("a:\n  *: 1", "x.yaml:2: not valid YAML: while scanning an alias"),
        ("a: !!python/object:os.system x", "x.yaml:1: the tag 'tag:yaml.org,2002:python/object:os.system' is not"),
        ("a: 1\nb: !!str 5", "x.yaml:2: the tag 'tag:yaml.org,2002:str' is not allowed; a recipe holds plain values"),
        ("a: ! 5", "x.yaml:1: the tag '!' is not allowed"),
        ("!!str a: 5", "x.yaml:1: the tag 'tag:yaml.org,2002:str' is not allowed"),
        ("<<: {a: 1}", "x.yaml:1: the merge key << is not allowed; use extends, or write the values out"),
        ("a: 1\n---\nb: 2", "x.yaml:2: a second YAML document starts here; a recipe is a single one"),
        ("a: 1\nb: .inf", "x.yaml:2: .inf is not a finite number"),
        ("a: -.INF", "x.yaml:1: -.INF is not a finite number"),
        ("a: .NaN", "x.yaml:1: .NaN is not a finite number"),
        ("a: 1.0e+999", "x.yaml:1: 1.0e+999 is not a finite number"),
        ("a: " + "9" * 5000, "x.yaml:1: '99999999"),
        ("a:\n\tb: 1", "x.yaml:2: not valid YAML: while scanning for the next token found character '\\t' that"),
        ("a: [1, 2", "x.yaml:1: not valid YAML: while parsing a flow sequence"),
        ("a: 1\n  b: 2", "x.yaml:2: not valid YAML: mapping values are not allowed here"),
        ("a: 1\n[1]: 2", "x.yaml:2: a key must be a name"),
        ("? {a: 1}\n: 2", "x.yaml:1: a key must be a name"),
        ('"": 2', "x.yaml:1: a key must be a name"),
        ("a: 1\nb: \0", "x.yaml:2: the character 0x0 is not allowed in YAML; is this a text file?"),
        ('a: 1\nb: "\\0"', "x.yaml:2: the character 0x0 is not allowed in text"),
        ('"\\ud800": 1', "x.yaml:1: the character 0xd800 is not allowed in text"),
        ('a: 1\nb: "\\UFFFFFFFF"', "x.yaml:2: a number or escape is out of range"),
        ("%YAML " + "9" * 5000 + ".1\n---\na: 1", "x.yaml:1: a number or escape is out of range"),
    ],
)
def test_refuses_a_trap_at_its_line(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, START)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_says_to_indent_with_spaces_where_a_tab_stands() -> None:
    with pytest.raises(RecipeError, match=r"x\.yaml:2: .*; indent with spaces$"):
        parse_yaml("a:\n\tb: 1", START)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}")])
def test_refuses_what_is_nested_too_deep_long_before_python_would(opening: str, closing: str) -> None:
    deep = MAX_DEPTH
    assert parse_yaml(opening * (deep - 1) + "1" + closing * (deep - 1), START)
    for depth in (deep, 100_000):
        with pytest.raises(RecipeError, match=r"^x\.yaml:2: nested more than 50 deep$"):
            parse_yaml("\n" + opening * depth + "1" + closing * depth, START)


def test_knows_the_line_of_every_key_and_value() -> None:
    root = parse_yaml(SAMPLE, START)
    assert isinstance(root, Fields)
    assert [entry.place.line for entry in root.entries.values()] == [1, 4, 7, 8]
    source, passes = root.entries["source"].value, root.entries["passes"].value
    assert isinstance(source, Fields)
    assert isinstance(passes, Items)
    assert source.entries["size"].value.place == Place("x.yaml", 3, Path("folder"))
    assert [item.place.line for item in passes.items] == [5, 6]
    assert plain(root) == {
        "source": {"demo": "shapes", "size": [256, 320]},
        "passes": [{"freeze-shapes": {"batch": 1}}, "simplify"],
        "check": {"tolerance": {"*": 1e-4, "masks": {"relative": 0.5}}},
        "text": "two\nlines\n",
    }


def test_places_everything_at_the_option_when_the_text_comes_from_the_command_line() -> None:
    place = Place("--set a.b=[1,\n1e4]", None, Path())
    with pytest.raises(RecipeError, match=r"^--set a\.b=\[1,\n1e4\]: 1e4 is a number to some"):
        parse_yaml("[1,\n1e4]", place)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "\n\n"])
def test_reads_an_empty_text_as_null(text: str) -> None:
    assert plain(parse_yaml(text, START)) is None


def test_reads_a_file_with_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes("\ufeffa: 1\r\nb: ä\r\n".encode())
    root = read_yaml(file, "x.yaml")
    assert plain(root) == {"a": 1, "b": "ä"}
    assert isinstance(root, Fields)
    assert root.entries["b"].place == Place("x.yaml", 2, tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a: 1\nb: \xff\n", "shown.yaml:2: byte 0xff is not UTF-8 text; save the file as UTF-8"),
        ("a: 1".encode("utf-16"), "shown.yaml:1: byte 0xff is not UTF-8 text; save the file as UTF-8"),
        (b"a: 1\n\x1b[0m", "shown.yaml:2: the character 0x1b is not allowed in YAML; is this a text file?"),
        (
            b"#" * (MAX_BYTES + 1),
            "shown.yaml: can't be read: 1000001 bytes, more than the 1000000 that such a file may have",
        ),
    ],
)
def test_refuses_a_file_that_is_no_recipe_text(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(data)
    with pytest.raises(RecipeError) as caught:
        read_yaml(file, "shown.yaml")
    assert str(caught.value) == message


def test_says_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^x\.yaml: can't be read: No such file"):
        read_yaml(tmp_path / "none.yaml", "x.yaml")


def test_raises_nothing_but_recipe_errors_of_one_line_on_mangled_text() -> None:
    chance = random.Random(0)
    pieces = [
        "\t",
        "&a ",
        "*a",
        "!!str ",
        "<<: ",
        "[",
        "}",
        ": ",
        "- ",
        "'",
        '"',
        "\\",
        "? ",
        "%",
        "|",
        "\n",
        "1e5",
        "\0",
    ]
    messages = []
    for _ in range(500):
        text = SAMPLE
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(text))
            text = text[:at] + chance.choice(pieces) + text[at + chance.randint(0, 3) :]
        try:
            parse_yaml(text, START)
        except RecipeError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all(message.startswith("x.yaml:") and "\n" not in message for message in messages)


def test_shows_a_value_in_one_short_line() -> None:
    assert quoted("a\nb") == "'a\\nb'"
    assert quoted(None) == "nothing"
    assert quoted(True) == "true"
    assert quoted("x" * 100) == "'" + "x" * 56 + "..."
