"""Arguments and options that several commands have, and what they stand for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphsurgery.errors import InputError

if TYPE_CHECKING:
    from graphsurgery.evaluation.compiled_column import CompiledColumn
    from graphsurgery.recipe.load import Recipe

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
    list[Path] | None,
    typer.Option("--plugin", help="A Python file with passes or custom operators; it is run. Repeatable."),
]


def _load_operators(files: list[Path] | None) -> None:
    """Make the custom operators in `files` known."""
    from graphsurgery.graph.expansion.registry import add_file

    for file in files or ():
        if add_file(file) == 0:
            raise InputError(f"--plugin {file}: it defines no CustomOperator, and no pass is looked for here")


Operators = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        callback=_load_operators,
        expose_value=False,
        help="A Python file with custom operators; it is run. Repeatable.",
    ),
]
Tolerance = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=NUMBER", help="Per tensor or pattern; 1e-4 of the largest value otherwise."),
]
ModelIo = Annotated[
    Path | None, typer.Option(help="Where the captured tensors are; model/model_io/RECIPE if not given.")
]
PartsFolder = Annotated[Path, typer.Argument(help="A folder of parts that 'apply' wrote.")]
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", metavar="DEVICE=PROVIDER", help="For example npu=qnn,soc_model=60. Repeatable."),
]
AllowFallback = Annotated[
    bool, typer.Option("--allow-fallback", help="Nodes that a provider leaves to the CPU are no error.")
]
ExternalData = Annotated[
    str,
    typer.Option(
        metavar="SIZE", help="From this size of all parts on, such as 500MB or 0, weights are files beside them."
    ),
]
Threads = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[PART=]N",
        help="Threads of an operator on the CPU, of all parts or of one; 0: as ONNX Runtime likes. Repeatable.",
    ),
]
PipelineDepth = Annotated[
    int | None,
    typer.Option("--pipeline", min=1, metavar="N", help="Let parts of successive images overlap, N waiting."),
]


def bytes_of(size: str) -> int:
    """Return what --external-data says, such as 1GB or 500MB, as bytes."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)B?", size.strip(), re.IGNORECASE | re.ASCII)
    if found is None:
        raise InputError(f"--external-data {size}: is no size; write it as 1GB, 500MB, or 0 for always")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " "))


def recipe_of(name: str, weights: str | None, overrides: list[str] | None, plugins: list[Path] | None) -> Recipe:
    """Read the recipe with everything that the options say."""
    from graphsurgery.recipe.load import load_recipe
    from graphsurgery.rewrite.registry import discover

    return load_recipe(name, overrides or [], registry=discover(plugins or []), weights=weights)


def model_io_of(recipe: str) -> Path:
    """Return where a recipe's captured tensors lie unless an option says otherwise."""
    return Path("model") / "model_io" / recipe


def compiled_column(text: str, folder: Path) -> CompiledColumn:
    """Return the results that --results names, of the parts in `folder`. Raises InputError as `CompiledColumn.of`."""
    from graphsurgery.evaluation.compiled_column import CompiledColumn

    name, equals, place = text.partition("=")
    if not equals or not place:
        raise InputError(f"--results {text}: write it as --results NAME=DIR, the compiler and where its results lie")
    return CompiledColumn.of(name, folder, Path(place))
