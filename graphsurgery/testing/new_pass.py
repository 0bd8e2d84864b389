"""The two files that a new pass begins with: they load and run at once, and fail where their author has to think.

What is written for each operator comes from its definition: a model that holds it, of the inputs that it needs.
"""

from __future__ import annotations

import itertools
import keyword
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx.defs import OpSchema

from graphsurgery.errors import InputError, did_you_mean
from graphsurgery.files.commit import writing
from graphsurgery.plugins import source_file
from graphsurgery.rewrite import Effect
from graphsurgery.rewrite.registry import KEBAB, discover

_OPSET = 17  # what torch's exporter writes, unless the operator is newer or gone by then
_LONGEST = 36  # so that no line that holds it is longer than 88 characters
_TAKEN = ("NodePass", "Editor", "Builder")  # class names that the files themselves use

_PASS = '''\
"""Say in one line what the pass does, and for which accelerator or compiler.

    {op}(x)  ->  what it becomes

It does not fire when
1. say here, one by one, what it leaves alone, so that the result stays the same
"""

from __future__ import annotations

import onnx_graphsurgeon as gs
{blank}from graphsurgery.rewrite import Editor, NodePass, Refuse


class {cls}(NodePass):
    # Options are fields, `size: int = 3`; with some it is a @dataclass(frozen=True).
    name = "{name}"
    effect = "{effect}"
    matches = ("{op}",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        # Guards first, each with the reason that is shown to who wonders:
        #     if node.attrs.get("axis", 0) < 0:
        #         raise Refuse("its axis counts from the end")
        # Then the rewrite, through `edit` only, for example:
        #     y = edit.emit("Abs", [node.inputs[0]], hint="positive")
        #     edit.replace(node, "Sqrt", [y])
        raise Refuse("the rewrite is not written yet")
'''

_TEST = '''\
{imports}
BEFORE = """
{model}"""
AFTER = ""


def test_rewrites_it() -> None:
    assert AFTER, "write the rewrite, and as AFTER what BEFORE becomes"
    assert_rewrites({cls}(), BEFORE, AFTER)


# one test like this for each numbered case of the docstring
def test_says_why_it_leaves_it_alone() -> None:
    assert_untouched({cls}(), BEFORE, "not written yet")


def test_leaves_an_operator_of_another_domain_alone() -> None:
    other = BEFORE.replace(" = ", " = my.", 1)
    assert_untouched({cls}(), other, None)


# Draw all that may be around the operator: ranks, types, attributes left out, what
# must be refused. The rest is drawn for you: bodies, open sizes, names that collide.
# As long as the pass rewrites nothing, this test says so and fails.
@fuzz({cls}())
def test_any_drawn_graph_computes_the_same(build: Builder) -> list[str]:
{draw}'''

_IMPORTS = """\
from graphsurgery.passes.{stem} import {cls}
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz
"""

_PLUGIN_IMPORTS = """\
from pathlib import Path

from graphsurgery.rewrite.registry import discover
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

PLUGIN = Path(__file__).with_name("{file}")
PASSES = discover([PLUGIN])
{cls} = PASSES.get("{name}")
"""


@dataclass(frozen=True)
class NewPass:
    """The file of a pass and its test, as they will be written."""

    name: str
    file: Path
    test: Path
    plugin: bool
    source: str
    test_source: str

    def write(self) -> None:
        """Write both files. Raises InputError, having written neither, where one is there already."""
        texts = {self.file: self.source, self.test: self.test_source}
        folder, path = Path(os.path.commonpath([path.parent.absolute() for path in texts])), self.file
        try:
            with writing(folder) as draft:
                for path, text in texts.items():
                    if path.exists():
                        raise InputError(
                            f"{path}: there is such a file already, and none is overwritten; take another name"
                        )
                    place = draft.work / path.absolute().relative_to(folder)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_text(text, encoding="utf-8", newline="\n")
                draft.publish((), self.test.name)
        except OSError as error:
            raise InputError(f"{path}: can't be written ({error.strerror or error})") from error


def new_pass(
    name: str, matches: str, effect: Effect = "exact", plugin: Path | None = None, root: Path | None = None
) -> NewPass:
    """Return the files of a pass called `name` for the operator `matches`; nothing is written yet.

    They go into the checkout `root` (None: the one that this package is in), or into `plugin` and beside it. Raises
    InputError for a name that is none or is taken, an operator that ONNX does not have, and a place that is not there.
    """
    cls = "".join(word.capitalize() for word in name.split("-"))
    stem = name.replace("-", "_")
    _check_name(name, cls, stem)
    schema = _schema(matches)
    file, test = _places(stem, plugin, root)
    example = _example(schema)
    template = _IMPORTS if plugin is None else _PLUGIN_IMPORTS
    return NewPass(
        name,
        file,
        test,
        plugin is not None,
        _PASS.format(op=matches, cls=cls, name=name, effect=effect, blank="" if plugin else "\n"),
        _TEST.format(
            imports=template.format(stem=stem, cls=cls, file=file.name, name=name),
            model=example.text(),
            cls=cls,
            draw=example.drawing(),
        ),
    )


def _check_name(name: str, cls: str, stem: str) -> None:
    if not KEBAB.fullmatch(name):
        raise InputError(f"'{name}' is no name for a pass: write lower-case words with hyphens, such as lower-foo")
    if len(name) > _LONGEST:
        raise InputError(f"'{name}' is too long for a name: {_LONGEST} characters are the most")
    if keyword.iskeyword(stem) or cls in _TAKEN:
        raise InputError(f"'{name}' means something else in Python or in a pass; put a verb before it")
    registry = discover()
    if name in registry.names():
        raise InputError(f"pass '{name}' is there already, in {source_file(registry.get(name))}; take another name")


def _schema(op: str) -> OpSchema:
    """Return the definition of the operator in the operator set that the files are written for."""
    history = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == "" and not s.deprecated]
    known = sorted({schema.name for schema in history})
    if op not in known:
        raise InputError(f"--matches {op}: ONNX has no such operator.{did_you_mean(op, known)}")
    versions = {schema.since_version: schema for schema in history if schema.name == op}
    return versions[max((v for v in versions if v <= _OPSET), default=min(versions))]


def _places(stem: str, plugin: Path | None, root: Path | None) -> tuple[Path, Path]:
    if plugin is not None:
        if plugin.suffix != ".py":
            raise InputError(f"--plugin {plugin}: a plug-in is a Python file (*.py)")
        if not plugin.parent.is_dir():
            raise InputError(f"--plugin {plugin}: there is no folder {plugin.parent}")
        return plugin, plugin.with_name(f"test_{plugin.name}")
    root = root or Path(__file__).parent.parent.parent
    passes, tests = root / "passes", root / "tests" / "passes"
    if not (passes.is_dir() and tests.is_dir()):
        raise InputError(f"{root} is no checkout of graphsurgery; write a plug-in: --plugin {stem}.py")
    return passes / f"{stem}.py", tests / f"test_{stem}.py"


# --- an example of an operator ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Example:
    """A node of one operator with the inputs that it must have."""

    op: str
    opset: int
    inputs: Sequence[tuple[str, str, Sequence[int]]]  # name, element type, shape
    attributes: Sequence[tuple[str, str]]
    outputs: Sequence[str]  # as ONNX text: float[2, 2] y

    def text(self) -> str:
        """Return the model in ONNX text."""
        imports = onnx.helper.make_opsetid("", self.opset)
        ir_version = max(8, onnx.helper.find_min_ir_version_for([imports]))
        inputs = ",\n        ".join(_declared(name, kind, shape) for name, kind, shape in self.inputs)
        outputs = ",\n        ".join(self.outputs)
        attributes = ",\n            ".join(f"{name} = {value}" for name, value in self.attributes)
        attributes = f" <\n            {attributes}\n        >" if attributes else ""
        written = ", ".join(output.split()[-1] for output in self.outputs)
        call = f"{self.op}{attributes} ({', '.join(name for name, _, _ in self.inputs)})"
        return (
            f'    <ir_version: {ir_version}, opset_import: ["": {self.opset}, "my": 1]>\n'
            f"    g (\n        {inputs}\n    ) => (\n        {outputs}\n    ) {{\n"
            f"        {written} = {call}\n    }}"
        )

    def drawing(self) -> str:
        """Return the body of a function that draws such a node."""
        lines = []
        for name, kind, shape in self.inputs:
            dtype = "" if kind == "float" else f', "{_numpy_name(kind)}"'
            lines.append(f"    {name} = build.input({list(shape)}{dtype})\n")
        names = ", ".join(name for name, _, _ in self.inputs)
        lines.append(f"    inputs = [{names}]\n")
        several = len(self.outputs) > 1
        arguments = [f'"{self.op}"', "inputs", *([f"outputs={len(self.outputs)}"] if several else [])]
        arguments += [f"{name}={value}" for name, value in self.attributes]
        if len(arguments) > 3:  # for the formatter
            lines.append("    y = build.node(\n" + "".join(f"        {each},\n" for each in arguments) + "    )\n")
        else:
            lines.append(f"    y = build.node({', '.join(arguments)})\n")
        return "".join([*lines, f"    return {'list(y)' if several else '[y]'}\n"])


def _declared(name: str, kind: str, shape: Sequence[int | str]) -> str:
    """Return a tensor as ONNX text has it; a scalar has no brackets."""
    sizes = f"[{', '.join(map(str, shape))}]" if shape else ""
    return f"{kind}{sizes} {name}"


def _numpy_name(kind: str) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(kind.upper())))


def _example(schema: OpSchema) -> _Example:
    """Return an example that ONNX calls valid where one of a few guesses is, else the first guess."""
    guesses = list(_guesses(schema))
    for guess in guesses:
        outputs = _outputs(guess)
        if outputs is not None:
            return _Example(guess.op, guess.opset, guess.inputs, guess.attributes, outputs)
    return guesses[0]


def _guesses(schema: OpSchema) -> Iterator[_Example]:
    needed = [item for item in schema.inputs if item.option != OpSchema.FormalParameterOption.Optional]
    names = ["x" if number == 1 else f"x{number}" for number in range(1, len(needed) + 1)]
    outputs = ["y", *(f"y{number}" for number in range(2, schema.min_output + 1))]
    attributes = [(name, _value(declared)) for name, declared in schema.attributes.items() if declared.required]
    kinds = [_kind(item.types) for item in needed]
    opset = max(_OPSET, schema.since_version)
    if not onnx.defs.has(schema.name, opset, "") or onnx.defs.get_schema(schema.name, opset, "").deprecated:
        opset = schema.since_version
    for rank, others in itertools.product((4, 3, 2, 1, 0), (1, 2, 0)):
        ranks = [rank if kind == kinds[0] else others for kind in kinds]
        if others == 0:  # as in BatchNormalization
            ranks = [rank, *[1] * (len(kinds) - 1)][: len(kinds)]
        inputs = [(name, kind, [2] * r) for name, kind, r in zip(names, kinds, ranks, strict=True)]
        written = [_declared(name, kinds[0] if kinds else "float", [2] * rank) for name in outputs]
        yield _Example(schema.name, opset, inputs, attributes, written)


def _kind(types: Collection[str]) -> str:
    """Return the element type, as ONNX text has it, that an input most likely has."""
    tensors = sorted(kind[7:-1] for kind in types if kind.startswith("tensor("))
    return next((kind for kind in ("float", "int64", "bool", "uint8", "string", *tensors) if kind in tensors), "float")


def _value(declared: OpSchema.Attribute) -> str:
    kind = str(declared.type).rpartition(".")[2]
    # of the operators that must have a text, Einsum is the one that is used
    known = {"FLOAT": "1.0", "STRING": '"ij->ij"', "INTS": "[1, 1]", "FLOATS": "[1.0]"}
    return known.get(kind, "1")  # a graph or a tensor is more than a guess can give


def _outputs(guess: _Example) -> list[str] | None:
    """Return the outputs with the types that ONNX infers; None where it calls the guess no valid model."""
    try:
        model = onnx.parser.parse_model(guess.text())
        for info in model.graph.output:
            info.ClearField("type")
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        onnx.checker.check_model(inferred)
    except Exception:  # onnx raises many kinds, one of its own in each module
        return None
    found = []
    for info in inferred.graph.output:
        tensor = info.type.tensor_type
        if not tensor.HasField("shape"):
            return None
        sizes = [dim.dim_value if dim.HasField("dim_value") else "?" for dim in tensor.shape.dim]
        found.append(_declared(info.name, onnx.TensorProto.DataType.Name(tensor.elem_type).lower(), sizes))
    return found
