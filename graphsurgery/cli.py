"""The command line: the only file that prints.

Exit codes: 0 fine, 1 the models differ, 2 the input is at fault, 3 a tool or provider that was asked for is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text
from typer.exceptions import TyperException

from graphsurgery import __version__
from graphsurgery.errors import Difference, GraphSurgeryError, InputError
from graphsurgery.record import Record, Step
from graphsurgery.report import terminal

EXIT_INTERRUPTED = 130
EXIT_BUG = 70

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="ONNX graph surgery by recipe: rewrite passes, a numeric check after each, parts for NPU and CPU. "
    "[dim]Any command takes --debug: a traceback where there would be a one-line error.[/dim]",
)
out = terminal.console()
err = terminal.console(stderr=True)

RecipeName = Annotated[str, typer.Argument(help="A name under recipes/, or a .yaml file.")]
JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON; - for standard output.")
]
Weights = Annotated[str | None, typer.Option(help="Instead of the recipe's: COCO_V1, a file, or random:SEED.")]
Images = Annotated[Path | None, typer.Option(help="A folder of images, or one, to capture tensors of.")]
Annotations = Annotated[Path | None, typer.Option(help="COCO annotations: which images, by ascending id.")]
MaxSamples = Annotated[int | None, typer.Option(min=1, help="Take so many samples at most.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one value of the recipe. Repeatable.")
]
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="A Python file with passes; it is run. Repeatable.")
]
Tolerance = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=NUMBER", help="Per tensor or pattern; 1e-4 of the largest value otherwise."),
]
ModelIo = Annotated[
    Path | None, typer.Option(help="Where the captured tensors are; model/model_io/RECIPE if not given.")
]


class Display:
    """Draws progress on standard error while a run goes on."""

    def __init__(self) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
        self._progress = Progress(
            *columns, TimeElapsedColumn(), console=err, transient=True, disable=not err.is_terminal
        )
        self._task = self._progress.add_task("", total=None, visible=False)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begin(self, what: str) -> None:
        self._progress.reset(self._task, description=what, total=None, visible=True)

    def advance(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)

    def finished(self, step: Step) -> None:
        where = f" ({step.part})" if step.part else ""
        self._progress.update(self._task, description=f"{step.name}{where}: {step.verdict}")


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        out.print(f"graphsurgery {__version__}", highlight=False)
        raise typer.Exit


@app.command("apply")
def apply_command(
    recipe: RecipeName,
    weights: Weights = None,
    images: Images = None,
    annotations: Annotations = None,
    max_samples: MaxSamples = None,
    set_: Overrides = None,
    plugin: Plugins = None,
    out_: Annotated[Path | None, typer.Option("--out", help="Folder for the parts; model/RECIPE if not given.")] = None,
    model_io: ModelIo = None,
    no_check: Annotated[bool, typer.Option("--no-check", help="Compare nothing. The parts may be wrong.")] = False,
    json_: JsonFile = None,
) -> None:
    """Take a detector through a recipe, checking after every pass, and write its parts.

    Example: python -m graphsurgery apply shapes
    """
    from graphsurgery.job import Options, apply_recipe

    screen = _screen(json_)
    loaded = _load_recipe(recipe, weights, set_, plugin)
    folder = out_ or Path("model") / loaded.name
    options = Options(folder, model_io or _model_io(loaded.name), images, annotations, max_samples, not no_check)
    if no_check:
        err.print("[bold yellow]--no-check: nothing is compared. The parts may be wrong, and nobody will know.[/]")
    record = Record(loaded.to_json())
    try:
        with Display() as display:
            apply_recipe(loaded, options, record, display)
    finally:
        if record.passes:
            screen.print(terminal.steps_table("Passes", record.passes))
            screen.print()
        if record.checks:
            screen.print(terminal.steps_table("Checks", record.checks))
        _write_json(json_, record.to_json())
    screen.print()
    screen.print(terminal.parts_table(record.parts))
    if record.evaluation:
        screen.print()
        screen.print(terminal.precision_table(record.evaluation))
    screen.print()
    weak = [step.name for step in (*record.passes, *record.checks) if step.verdict == "inconclusive"]
    if weak:
        err.print(f"[yellow]inconclusive: {', '.join(weak)}; the samples hold nothing to compare. Capture others.[/]")
    if no_check:
        err.print("[bold yellow]--no-check: nothing was compared.[/]")
    seconds = record.seconds
    screen.print(
        f"{len(record.parts)} part{'s' * (len(record.parts) != 1)} in {folder} after {seconds['total']:.0f} s "
        f"(surgery {seconds.get('surgery', 0):.1f} s), peak memory {record.to_json()['peak_rss_mb']:.0f} MB",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@app.command("capture")
def capture_command(
    recipe: RecipeName,
    images: Images = None,
    annotations: Annotations = None,
    max_samples: MaxSamples = None,
    weights: Weights = None,
    set_: Overrides = None,
    plugin: Plugins = None,
    model_io: ModelIo = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the samples that are there.")] = False,
    json_: JsonFile = None,
) -> None:
    """Run the original model on images and keep every boundary tensor as .npy.

    Example: python -m graphsurgery capture maskrcnn --weights random:0 --images photos --max-samples 3
    """
    from graphsurgery.job import Options, capture_samples
    from graphsurgery.sources import open_source

    screen = _screen(json_)
    loaded = _load_recipe(recipe, weights, set_, plugin)
    folder = model_io or _model_io(loaded.name)
    with Display() as display:
        source = open_source(loaded.source)
        options = Options(Path(), folder, images, annotations, max_samples)
        capture = capture_samples(loaded, source, options, display, overwrite=overwrite)
    rows = [[sample.id, str(len(sample.names))] for sample in capture.samples]
    screen.print(terminal.plain_table(f"Captured in {folder}", ["sample", "tensors"], rows))
    _write_json(json_, {"folder": str(folder), "samples": {s.id: sorted(s.names) for s in capture.samples}})


@app.command("run")
def run_command(
    folder: Annotated[Path, typer.Argument(help="A folder of parts that 'apply' wrote.")],
    image: Annotated[Path, typer.Option(help="The image to detect objects in.")],
    out_: Annotated[
        Path | None, typer.Option("--out", help="Where the picture goes; the image's name + .detections.png.")
    ] = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="Draw only detections with at least this score.")] = 0.5,
    device: Annotated[
        list[str] | None, typer.Option(metavar="DEVICE=PROVIDER", help="For example npu=vitisai. Repeatable.")
    ] = None,
    json_: JsonFile = None,
) -> None:
    """Play the parts on an image; write the detections as JSON and draw them on the image.

    Example: python -m graphsurgery run model/shapes --image photo.png
    """
    from graphsurgery.drawing import draw_detections
    from graphsurgery.evaluate import describe_detections
    from graphsurgery.image_files import load_image
    from graphsurgery.providers import parse_devices
    from graphsurgery.runtime import Detector

    screen = _screen(json_)
    picture = load_image(image)
    detector = Detector.load(folder, parse_devices(device or []))
    found = detector(picture)
    detections = describe_detections(found, detector.manifest.classes)
    drawn = draw_detections(picture, found, detector.manifest.classes, score)
    target = out_ or image.with_name(f"{image.stem}.detections.png")
    _save(target, lambda path: drawn.save(path, format="PNG"))
    results = Path(json_) if json_ and json_ != "-" else target.with_suffix(".json")
    payload = {"image": str(image), "folder": str(folder), "detections": detections, "seconds": detector.seconds}
    _write_json("-" if json_ == "-" else str(results), payload)
    shown = [found for found in detections if found["score"] is not None and found["score"] >= score]
    screen.print(terminal.detections_table(f"{len(shown)} detections", shown[:20]))
    files = [target] if json_ == "-" else [results, target]
    screen.print("\n" + "\n".join(map(str, files)), highlight=False, markup=False, soft_wrap=True)


@app.command("check")
def check_command(
    a: Annotated[Path, typer.Argument(help="The reference: an ONNX file, a folder of parts, or a model_io folder.")],
    b: Annotated[Path, typer.Argument(help="What is compared with it, of any of these kinds.")],
    inputs: Annotated[
        Path | None, typer.Option(help="A model_io folder to take inputs from; random inputs where none is given.")
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="Per tensor or pattern; 1e-4 of the largest value otherwise."),
    ] = None,
    json_: JsonFile = None,
) -> None:
    """Compare two models, or a model with captured tensors. Exit 1 when they differ.

    Example: python -m graphsurgery check model/model_io/shapes model/shapes
    """
    from graphsurgery.versus import compare_paths, parse_tolerances

    screen = _screen(json_)
    with Display() as display:
        verdict = compare_paths(a, b, inputs, parse_tolerances(tolerance or []), display)
    screen.print(terminal.comparison_table(f"{a} and {b}", verdict))
    for line in (*terminal.without_numbers(verdict), *verdict.notes):
        screen.print(line, highlight=False, markup=False)
    _write_json(json_, verdict.to_json())
    screen.print()
    if verdict.verdict == "failed":
        err.print(Text.assemble(("different: ", "bold red"), verdict.explain()), highlight=False, soft_wrap=True)
        raise typer.Exit(1)
    said = {"passed": "equal"}.get(verdict.verdict, verdict.verdict)
    screen.print(f"{said}: {verdict.explain()}", highlight=False, markup=False)


@app.command("bisect")
def bisect_command(
    a: Annotated[Path, typer.Argument(help="The reference: an ONNX file.")],
    b: Annotated[Path, typer.Argument(help="Another version of it, after a pass for example.")],
    inputs: Annotated[
        Path | None, typer.Option(help="A model_io folder, or one sample in it; random inputs where none is given.")
    ] = None,
    tolerance: Tolerance = None,
    outputs: Annotated[
        bool, typer.Option("--outputs", help="Also compare the outputs that depend on a difference; takes longer.")
    ] = False,
    json_: JsonFile = None,
) -> None:
    """Find the first tensor, in data-flow order, where two models diverge. Exit 1 when they do.

    Example: python -m graphsurgery bisect before.onnx after.onnx --inputs model/model_io/shapes/0
    """
    from graphsurgery.debugging.bisect import bisect_files
    from graphsurgery.versus import parse_tolerances

    screen = _screen(json_)
    with Display() as display:
        found = bisect_files(a, b, inputs, parse_tolerances(tolerance or []), display, outputs=outputs)
    for table in terminal.bisection_tables(found):
        screen.print(table)
        screen.print()
    for note in found.notes:
        screen.print(note, highlight=False, markup=False, soft_wrap=True)
    _write_json(json_, found.to_json())
    if found.divergences:
        seen = found.divergences[0].explain()
        err.print(Text.assemble(("different: ", "bold red"), seen), highlight=False, soft_wrap=True)
        raise typer.Exit(1)
    screen.print(f"no difference: {found.compared} tensors compared", highlight=False, markup=False)


@app.command("reduce")
def reduce_command(
    model: Annotated[Path, typer.Argument(help="An ONNX file on which a pass breaks something.")],
    pass_: Annotated[str, typer.Option("--pass", metavar="NAME", help="The pass.")],
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the pass, as in a recipe. Repeatable.")
    ] = None,
    plugin: Plugins = None,
    inputs: Annotated[
        Path | None, typer.Option(help="A model_io folder, or one sample in it; random inputs where none is given.")
    ] = None,
    tolerance: Tolerance = None,
    out_: Annotated[
        Path | None, typer.Option("--out", help="Folder for the reproduction; MODEL.PASS.reduced if not given.")
    ] = None,
    json_: JsonFile = None,
) -> None:
    """Find the smallest part of a model that a pass breaks, ready for a bug report. Exit 1 when it breaks something.

    Example: python -m graphsurgery reduce before.onnx --pass widen-maxpool --inputs model/model_io/shapes/0
    """
    from graphsurgery.debugging import reduce, reproduction
    from graphsurgery.versus import parse_tolerances

    screen = _screen(json_)
    configured = reduce.configured(pass_, option or [], plugin or [])
    folder = out_ or Path(f"{model.stem}.{pass_}.reduced")
    reproduction.check_place(folder)
    with Display() as display:
        found = reduce.reduce_file(model, configured, inputs, parse_tolerances(tolerance or []), display)
    if found is None:
        _write_json(json_, {"verdict": "equal", "pass": pass_})
        screen.print(f"pass '{pass_}' breaks nothing on these inputs", highlight=False, markup=False)
        return
    given = {"--pass": [pass_], "--option": option, "--plugin": plugin, "--tolerance": tolerance}
    arguments = [str(each) for key, values in given.items() for value in values or () for each in (key, value)]
    reproduction.write(found, folder, arguments)
    _write_json(json_, {"folder": str(folder), **found.to_json()})
    screen.print(reproduction.describe(found, arguments), highlight=False, markup=False)
    seen = f"pass '{pass_}' {found.broken.words}: {found.broken.reason}; {found.model.nodes} nodes in {folder} show it"
    err.print(Text.assemble(("broken: ", "bold red"), " ".join(seen.split())), highlight=False, soft_wrap=True)
    raise typer.Exit(1)


@app.command("passes")
def passes_command(
    name: Annotated[str | None, typer.Argument(help="Show this pass: what it does, its options, its effect.")] = None,
    plugin: Plugins = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Write all there is to say of them to standard output, as a page.")
    ] = False,
    json_: JsonFile = None,
) -> None:
    """List the passes, or show one.

    Example: python -m graphsurgery passes widen-maxpool
    """
    from graphsurgery.registry import discover, picture
    from graphsurgery.report.passes import describe_pass, reference

    screen = _screen(json_)
    registry = discover(plugin or [])
    if markdown:
        if json_ is not None:
            raise InputError("--markdown and --json say the same; give one of them")
        _write_out(reference([registry.get(each) for each in ([name] if name else registry.names())]))
        return
    if name is None:
        described = [describe_pass(registry.get(each)) for each in registry.names()]
        rows = [[each["name"], each["effect"], each["summary"]] for each in described]
        screen.print(terminal.plain_table("Passes", ["pass", "effect", "what it does"], rows))
        _write_json(json_, described)
        return
    pass_ = registry.get(name)
    described_pass = describe_pass(pass_)
    screen.print(f"{name} ({described_pass['effect']})\n", style="bold", highlight=False)
    screen.print(picture(pass_), highlight=False, markup=False)
    if described_pass["options"]:
        rows = [[o["name"], o["type"], o["default"]] for o in described_pass["options"]]
        screen.print()
        screen.print(terminal.plain_table("Options", ["option", "type", "default"], rows))
        if described_pass["about"]:
            screen.print(f"\n{described_pass['about']}", highlight=False, markup=False)
    _write_json(json_, described_pass)


@app.command("new-pass")
def new_pass_command(
    name: Annotated[str, typer.Argument(help="What the pass is called: a verb and what it acts on, lower-foo.")],
    matches: Annotated[str, typer.Option(metavar="OPERATOR", help="The ONNX operator that it looks for.")],
    plugin: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write this Python file, in place of one in the checkout.")
    ] = None,
    effect: Annotated[
        Literal["exact", "approximate"], typer.Option(help="Whether what is computed stays the same.")
    ] = "exact",
) -> None:
    """Write the file of a new pass and its test, to be filled in; docs/write-a-pass.md says how.

    Example: python -m graphsurgery new-pass lower-det --matches Det --plugin lower_det.py
    """
    from graphsurgery.scaffold import new_pass

    written = new_pass(name, matches, effect, plugin)
    written.write()
    shown = f" --plugin {written.file}" if written.plugin else ""
    lines = (
        f"{written.file}\n{written.test}\n\n"
        f"It is a pass already: python -m graphsurgery passes {name}{shown}\n"
        f"What is left to do:   python -m pytest {written.test}"
    )
    out.print(lines, highlight=False, markup=False, soft_wrap=True)


@app.command("inspect")
def inspect_command(
    path: Annotated[Path, typer.Argument(help="An ONNX file, or a folder of parts.")],
    json_: JsonFile = None,
) -> None:
    """Show operators, inputs and outputs, and what is not static.

    Example: python -m graphsurgery inspect model/shapes/backbone_rpn.onnx
    """
    from graphsurgery.manifest import Manifest
    from graphsurgery.model import Model

    screen = _screen(json_)
    files = [path / part.file for part in Manifest.read(path).parts] if path.is_dir() else [path]
    described = {str(file): _inspect(Model.load(file)) for file in files}
    for file, found in described.items():
        rows = [[kind, name, shape] for kind in ("inputs", "outputs") for name, shape in found[kind].items()]
        title = f"{file}: {found['nodes']} nodes, opset {found['opset']}"
        screen.print(terminal.plain_table(title, ["", "name", "shape"], rows))
        operators = ", ".join(f"{op} {count}" for op, count in found["ops"].items())
        dynamic = found["dynamic"]
        listed = ", ".join(f"{name} {shape}" for name, shape in list(dynamic.items())[:8])
        lines = f"operators: {operators}\ndynamic: {len(dynamic) or 'nothing'}{': ' if dynamic else ''}{listed}\n"
        screen.print(lines, highlight=False, markup=False)
    _write_json(json_, described)


def _inspect(model: Any) -> dict[str, Any]:
    from graphsurgery.model import Model, walk_protos
    from graphsurgery.pipeline import dynamic_values
    from graphsurgery.rewrite import Editor

    view = model.graph()
    Editor(view, "inspect").infer_shapes()
    inferred = Model.of(view)
    interface = {
        kind: {t.name: "unknown" if t.shape is None else str(list(t.shape)).replace("'", "") for t in tensors}
        for kind, tensors in (("inputs", view.inputs), ("outputs", view.outputs))
    }
    ops = Counter(node.op_type for node in walk_protos(model.proto.graph))
    return {
        "nodes": model.nodes,
        "opset": model.opset,
        "ops": dict(ops.most_common()),
        **interface,
        "dynamic": dict(dynamic_values(inferred)),
    }


def _load_recipe(name: str, weights: str | None, overrides: list[str] | None, plugins: list[Path] | None) -> Any:
    from graphsurgery.recipe import load_recipe
    from graphsurgery.registry import discover

    return load_recipe(name, overrides or [], registry=discover(plugins or []), weights=weights)


def _model_io(recipe: str) -> Path:
    return Path("model") / "model_io" / recipe


def _screen(json_: str | None) -> terminal.Screen:
    """Where tables go: standard output, unless that is to hold the JSON and nothing else.

    Raises InputError for a JSON file that can't be written, before the work and not after it.
    """
    if json_ == "-":
        return err
    if json_ is not None and (Path(json_).is_dir() or not Path(json_).parent.is_dir()):
        raise InputError(f"--json {json_}: no file can be written there; name a file in a folder that exists, or -")
    return out


def _write_json(target: str | None, content: Mapping[str, Any] | list[Any]) -> None:
    if target is None:
        return
    text = json.dumps(content, indent=1) + "\n"
    if target == "-":
        _write_out(text)
        return
    _save(Path(target), lambda path: path.write_text(text, encoding="utf-8"))


def _write_out(text: str) -> None:
    """Write to standard output as it is, without the terminal's line breaks."""
    try:
        out.file.write(text)
        out.file.flush()
    except BrokenPipeError:
        out.on_broken_pipe()


def _save(target: Path, write: Any) -> None:
    """Write to a temporary name, then rename."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{target}: can't be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _one_line_errors(debug: bool) -> Iterator[None]:
    """Turn whatever ends a command into one line and an exit code."""
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        if debug and not isinstance(error, KeyboardInterrupt | typer.Exit):
            traceback.print_exc()
        code, message = _explain(error)
        if message:
            err.print(message, markup=False, highlight=False, soft_wrap=True)
        if isinstance(error, Difference) and error.hint:
            err.print(" ".join(error.hint.split()), markup=False, highlight=False, soft_wrap=True)
        sys.exit(code)


def _explain(error: BaseException) -> tuple[int, str]:
    if isinstance(error, typer.Exit):
        return error.exit_code, ""
    if isinstance(error, GraphSurgeryError):
        return error.exit_code, f"error: {' '.join(str(error).split())}"
    if isinstance(error, TyperException):
        message = " ".join(error.format_message().split())
        return 2, f"error: {message.rstrip('.')}. See: python -m graphsurgery --help" if message else ""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return EXIT_INTERRUPTED, "interrupted; what was there before is as it was"
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return 2, f"error: {error.filename or 'input/output'}: {error.strerror or error}"
    if isinstance(error, BrokenPipeError):
        return 0, ""
    kind = type(error).__name__
    return EXIT_BUG, f"error: a bug in graphsurgery: {kind}: {error}; run it with --debug and report what it prints"


def main() -> None:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    with _one_line_errors(debug):
        code = app([a for a in arguments if a != "--debug"], prog_name="python -m graphsurgery", standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
