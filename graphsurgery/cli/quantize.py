"""quantize: one ONNX file in integers, and what it costs layer by layer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import JsonFile, Operators
from graphsurgery.cli.screen import Display, screen_for, warn_of_joined_ranges, write_out
from graphsurgery.errors import Difference, InputError
from graphsurgery.report import terminal

if TYPE_CHECKING:
    from graphsurgery.graph.model import Model
    from graphsurgery.rewrite import Applied, Pass


@app.command("quantize")
def quantize_command(
    model: Annotated[Path, typer.Argument(help="An ONNX file: a part that 'apply' wrote, for example.")],
    inputs: Annotated[Path, typer.Option(help="The model_io folder with the captured inputs to calibrate with.")],
    backend: Annotated[str | None, typer.Option(help="onnxruntime (if not given), quark, or vai_q_onnx.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An option of the pass quantize, as in a recipe. Repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Leave nodes of such a name float. Repeatable.")
    ] = None,
    goal: Annotated[
        float | None, typer.Option(metavar="DB", help="Leave the worst layers float until every output has this SQNR.")
    ] = None,
    floor: Annotated[
        float, typer.Option(metavar="DB", help="Write nothing and end with 1 where a float output has less.")
    ] = 10.0,
    explain: Annotated[bool, typer.Option("--explain", help="Rank the layers by the SQNR that they lose.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw that ranking; --out's name + .svg if not given.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Calibrate with so many samples at most.")] = None,
    out_: Annotated[Path | None, typer.Option("--out", help="The quantized model; MODEL.quantized.onnx.")] = None,
    plugin: Operators = None,
    json_: JsonFile = None,
) -> None:
    """Quantize an ONNX file with captured tensors, and show the SQNR of each output and, on demand, of each layer.

    Example: python -m graphsurgery quantize model/shapes/backbone_rpn.onnx --inputs model/model_io/shapes --explain
    """
    from graphsurgery.capture.samples import Capture
    from graphsurgery.files.commit import write_together
    from graphsurgery.graph.model import Model
    from graphsurgery.rewrite import PassContext, apply_pass
    from graphsurgery.rewrite.registry import discover

    screen = screen_for(json_)
    pass_ = _configured(option or [], backend, exclude or [], goal, explain or plot is not None, samples)
    if model.is_dir():
        raise InputError(f"{model}: this is a folder; name one ONNX file, a part in it for example")
    original = Model.load(model)
    target = out_ or model.with_name(f"{model.stem}.quantized.onnx")
    ranked: bool = getattr(pass_, "explain", False)
    picture = (plot or target.with_suffix(".svg")) if ranked else None
    _check_targets({"--out": target, "--plot": picture, "--json": None if json_ in (None, "-") else Path(json_)}, model)
    captured = Capture.open(inputs).samples

    begin = time.perf_counter()
    with Display() as display:
        display.begin(f"quantize {model.name}")
        context = PassContext(captured, display.advance, outputs_apart=discover().outputs_apart)
        applied = apply_pass(pass_, original, context)
    seconds = time.perf_counter() - begin
    if applied.skips:
        raise InputError(f"{model}: nothing was quantized: {applied.skips[0].reason}")
    applied.model.check(f"{model}, quantized,")

    details = applied.details
    counted = _float_outputs(applied.model)  # a label that is off by one says nothing of noise
    lost = {
        n: db for n, db in details.get("sqnr_db", {}).items() if n in counted and db is not None and not db >= floor
    }
    layers = details.get("layers", [])
    drawing = _drawn(model, details, goal) if picture is not None else ""

    def content() -> str:
        return json.dumps(_content(model, None if lost else target, picture, applied, seconds), indent=1) + "\n"

    writers: dict[Path, Callable[[Path], object]] = {}
    if not lost:
        writers[target] = applied.model.save
    if picture is not None:
        writers[picture] = lambda path: path.write_text(drawing, encoding="utf-8")
    files = list(writers)
    if json_ is not None and json_ != "-":
        writers[Path(json_)] = lambda path: path.write_text(content(), encoding="utf-8")
    try:
        write_together(writers)
    except OSError as error:
        raise InputError(f"{', '.join(map(str, writers))}: can't be written ({error.strerror or error})") from error
    if json_ == "-":
        write_out(content())

    runs = details.get("feeds", 0)
    screen.print(terminal.sqnr_table(f"SQNR over {runs} run{'s' * (runs != 1)}", details.get("sqnr_db", {})))
    if layers:
        screen.print()
        screen.print(terminal.layers_table("When one layer alone is quantized, the worst output keeps", layers))
    warn_of_joined_ranges(details.get("joined", ()))
    if details.get("excluded"):
        screen.print(f"\nleft float: {', '.join(details['excluded'])}", highlight=False, markup=False)
    screen.print("\n" + "\n".join(map(str, files)), highlight=False, markup=False, soft_wrap=True)
    if lost:
        listed = ", ".join(f"{name} {db:.1f} dB" for name, db in list(lost.items())[:4])
        more = f" and {len(lost) - 4} more" if len(lost) > 4 else ""
        raise Difference(
            f"{model}: below the floor of {floor:g} dB: {listed}{more}; {target} is not written. --explain ranks the "
            "layers, --goal leaves the worst float, --floor takes less"
        )


def _float_outputs(model: Model) -> set[str]:
    from onnx import TensorProto

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    return {info.name for info in model.proto.graph.output if info.type.tensor_type.elem_type in floats}


def _configured(
    options: Sequence[str],
    backend: str | None,
    exclude: Sequence[str],
    goal: float | None,
    explain: bool,
    samples: int | None,
) -> Pass:
    """Return the pass with everything that the command's options say."""
    from graphsurgery.debugging.reduce import configured

    if goal is not None and exclude:
        raise InputError("--goal chooses the layers that stay float, --exclude names them; give one of the two")
    given: dict[str, Any] = {"backend": backend, "samples": samples, "explain": explain or None}
    if goal is not None:
        given |= {"exclude": "auto", "sqnr_goal": goal}
    elif exclude:
        given["exclude"] = list(exclude)
    said = [f"{name}={json.dumps(value)}" for name, value in given.items() if value is not None]
    return configured("quantize", [*options, *said], [])


def _check_targets(targets: Mapping[str, Path | None], model: Path) -> None:
    """Raise InputError, before the work and not after it, for a file that can't or must not be written."""
    taken = {model.resolve(): "the model itself"}
    for option, path in targets.items():
        if path is None:
            continue
        if path.is_dir() or not path.parent.is_dir():
            raise InputError(f"{option} {path}: no file can be written there; name a file in a folder that exists")
        place = path.resolve()
        other = taken.get(place) or ("the model itself" if path.exists() and path.samefile(model) else None)
        if other is not None:
            raise InputError(f"{option} {path}: this would overwrite {other}; name another file")
        taken[place] = f"what {option} names"


def _drawn(model: Path, details: Mapping[str, Any], goal: float | None) -> str:
    from graphsurgery.report.plot import Bar, bar_plot

    bars = [Bar(layer["name"], layer["sqnr_db"], layer["op"]) for layer in details.get("layers", [])]
    reached = [db for db in details.get("sqnr_db", {}).values() if db is not None]
    left = len(details.get("excluded", ()))
    whole = f"All {f'but {left} ' if left else ''}together leave {min(reached):.1f} dB." if reached else ""
    explanation = (
        "The SQNR in dB that is left at the worst output when one layer alone is quantized and all others are float. "
        f"The shorter the bar, the more the layer loses. {whole}"
    )
    return bar_plot(f"{model.name}, quantized by {details.get('backend')}", explanation, bars, "dB", goal=goal)


def _content(
    model: Path, target: Path | None, picture: Path | None, applied: Applied, seconds: float
) -> dict[str, Any]:
    return {
        "model": str(model),
        "out": str(target) if target is not None else None,
        **({"plot": str(picture)} if picture is not None else {}),
        "nodes": applied.model.nodes,
        "bytes": applied.model.proto.ByteSize() if target is not None else None,
        "seconds": round(seconds, 3),
        **applied.details,
    }
