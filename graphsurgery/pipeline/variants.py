"""Variants: the parts of a recipe made once more in another way, quantized for example, to be compared with them.

    model/shapes/backbone_rpn.onnx, ..., manifest.json          the parts
    model/shapes/int8/backbone_rpn.onnx, ..., manifest.json     the variant int8: a folder of parts like any other

A variant's passes go on from the finished parts, each gated on its part, with the variant's own grants for the passes
that these name. There is no numeric check of its chain: other features give other proposals, whose difference says
nothing of whether they are worse. That is what AP is for. Options of these passes may be looked for first
(`graphsurgery.search`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphsurgery.devices.choices import for_manifest, parse_devices
from graphsurgery.devices.providers import DeviceChoice, require_installed
from graphsurgery.errors import Difference, InputError, MissingTool
from graphsurgery.gate.gate import Judged
from graphsurgery.parts.describe import describe_part
from graphsurgery.parts.folder import OutputFolder
from graphsurgery.parts.manifest import Manifest
from graphsurgery.parts.part import Part
from graphsurgery.pipeline import apply as pipeline
from graphsurgery.pipeline.certify import Certifier
from graphsurgery.pipeline.run import Run
from graphsurgery.recipe.load import Recipe, Variant
from graphsurgery.recipe.target import ChosenTarget
from graphsurgery.report.run_record import Record, VariantRecord
from graphsurgery.search.look import look, passes_as_written, write_recipe
from graphsurgery.search.run import Runner
from graphsurgery.search.space import PartPasses
from graphsurgery.search.study import require_optuna

ALL = "all"


@dataclass(frozen=True)
class Searching:
    """How options of variants are looked for: by `run`, in a folder of `folder` for each variant.

    `drop` says how much AP the parts in a folder lose against the original; None where none is measured.
    """

    run: Runner
    folder: Path
    drop: Callable[[str, Path], float] | None = None


def search_folder(out: Path) -> Path:
    """Return where searches keep what they found, beside the output folder."""
    place = out if out.name not in ("", "..") else out.resolve()
    return place.with_name(f"{place.name}.search")


def require_searchable(recipe: Recipe, wanted: Sequence[Variant], *, required: bool) -> None:
    """Raise, before any work is done, InputError for a search that needs an AP which the recipe doesn't measure.

    And MissingTool for a `required` variant whose search needs optuna where that isn't installed.
    """
    for variant in wanted:
        if variant.search is None:
            continue
        if variant.search.max_ap_drop is not None and recipe.measured is None:
            raise InputError(
                f"recipe '{recipe.name}': variants.{variant.name}.search.max_ap_drop needs an AP: give the recipe an "
                "'evaluate' with images, or leave the key out"
            )
        if required:
            require_optuna()


def chosen(recipe: Recipe, names: Sequence[str] | None) -> list[Variant]:
    """Return the variants to make; None for those that need no request, "all" for all of them.

    Raises InputError for a name that the recipe has not.
    """
    if names is None:
        return [variant for variant in recipe.variants if not variant.on_request]
    known = {variant.name: variant for variant in recipe.variants}
    for name in names:
        if name not in known and name != ALL:
            listed = f"it has {', '.join(known)}" if known else "it has none"
            raise InputError(f"--variant {name}: recipe '{recipe.name}' has no such variant; {listed}")
    return list(recipe.variants) if ALL in names else [known[name] for name in dict.fromkeys(names)]


def choices(devices: Mapping[str, str]) -> dict[str, DeviceChoice]:
    """Return the providers that a recipe names, which, unlike a manifest, may name any file."""
    return parse_devices(f"{device}={value}" for device, value in devices.items())


def make_variant(
    run: Run,
    variant: Variant,
    parts: Sequence[Judged[Part]],
    manifest: Manifest,
    output: OutputFolder,
    required: bool,
    searching: Searching | None = None,
) -> VariantRecord:
    """Make the variant's parts of the finished `parts` and write them into a folder of its own.

    Options that it looks for are looked for by `searching`. Where a tool or a provider is not installed the variant is
    skipped, and its record says so, unless it is `required`.
    Raises Difference where one of its passes costs more than the recipe grants, MissingTool for a required one.
    """
    record = VariantRecord(variant.name, variant.devices)
    run.record.variants.append(record)
    begin = time.perf_counter()
    recipe = replace(run.recipe, part_passes=variant.part_passes)
    gate = None if run.gate is None else replace(run.gate, grants={**run.gate.grants, **variant.grants})
    certifier = Certifier(_chosen(run.recipe.target, variant.precision))
    inner = replace(run, recipe=recipe, gate=gate, record=Record({}), certifier=certifier)
    try:
        require_installed(choices(variant.devices))
        if variant.search is not None and searching is not None:
            variant = _found(run, variant, parts, manifest, output, searching, record)
            inner = replace(inner, recipe=replace(run.recipe, part_passes=variant.part_passes))
        judged = [pipeline.rewrite_part(inner, part) for part in parts]
    except MissingTool as error:
        if required:
            raise MissingTool(f"variant '{variant.name}': {error}") from error
        record.verdict, record.reason = "skipped", str(error)
        return record
    except Difference as error:
        record.reason = str(error)
        run.record.first_difference = inner.record.first_difference
        changed = Difference(f"variant '{variant.name}': {error}")
        changed.hint = error.hint
        raise changed from error
    finally:
        record.passes = inner.record.passes
        run.record.spent(f"variant {variant.name}", time.perf_counter() - begin)
    made = [pipeline.certified(inner, part.subject) for part in judged]
    record.support = certifier.to_json()
    _write(made, variant, manifest, output, run.external_from)
    described = Record({})
    described.describe(made)
    record.parts, record.verdict = described.parts, "passed"
    return record


def _found(
    run: Run,
    variant: Variant,
    parts: Sequence[Judged[Part]],
    manifest: Manifest,
    output: OutputFolder,
    searching: Searching,
    record: VariantRecord,
) -> Variant:
    """Return the variant with the options that were found, and write it as a recipe beside what was found."""
    assert variant.search is not None
    drop = searching.drop

    def dropped(part_passes: PartPasses) -> float:
        assert drop is not None
        tried = replace(variant, name=f"{variant.name}_trial", part_passes=part_passes)
        recipe = replace(run.recipe, part_passes=part_passes)
        unjudged = replace(run, recipe=recipe, gate=None, record=Record({}), certifier=Certifier(None))
        try:
            made = [pipeline.rewrite_part(unjudged, part).subject for part in parts]
            _write(made, tried, manifest, output, run.external_from)
            return drop(variant.name, output.work / tried.name)
        finally:
            shutil.rmtree(output.work / tried.name, ignore_errors=True)

    run.watcher.begin(f"search for variant {variant.name}")
    folder = searching.folder / variant.name
    found = look(
        variant.search,
        variant.part_passes,
        [part.subject for part in parts],
        run.calibration or run.samples,
        folder,
        searching.run,
        dropped=None if drop is None else dropped,
        progress=run.watcher.advance,
    )
    record.search = found.record
    keys = {**run.recipe.merged["variants"][variant.name], "part_passes": passes_as_written(found.part_passes)}
    write_recipe(folder, run.recipe.file, variant.name, {key: keys[key] for key in keys if key != "search"})
    return replace(variant, part_passes=found.part_passes, search=None)


def _chosen(target: ChosenTarget | None, precision: str | None) -> ChosenTarget | None:
    return target if target is None or precision is None else replace(target, precision=precision)


def _write(
    parts: Sequence[Part], variant: Variant, manifest: Manifest, output: OutputFolder, external_from: float
) -> None:
    folder = output.make_folder(variant.name)
    pipeline.save_parts(parts, folder, external_from, f"variant '{variant.name}', ")
    devices = {device: for_manifest(choice) for device, choice in variant.devices.items()}
    own = manifest.model_copy(
        update={"parts": [describe_part(part) for part in parts], "devices": devices, "variants": []}
    )
    output.write_manifest(own, variant.name)


def require_precision(recipe: Recipe, record: Record) -> None:
    """Raise Difference where a column of the evaluation has lost more AP than the recipe allows it."""
    table: Mapping[str, Mapping[str, float]] = (record.evaluation or {}).get("ap", {})
    for column, limit in _limits(recipe).items():
        for kind, row in table.items():
            if column in row and row["original"] - row[column] > limit:
                lost = row["original"] - row[column]
                reason = (
                    f"{kind} AP of '{column}' is {row[column]:.4f}, {lost:.4f} below the {row['original']:.4f} of the "
                    f"original, where max_ap_drop is {limit:g}"
                )
                for variant in record.variants:
                    if variant.name == column:
                        variant.verdict, variant.reason = "failed", reason
                raise Difference(f"evaluate: {reason}; python -m graphsurgery quantize --explain shows which layers")


def _limits(recipe: Recipe) -> Mapping[str, float]:
    """Return how much AP each column of the evaluation may lose against the original, where the recipe says so."""
    if recipe.evaluate is None:
        return {}
    general = recipe.evaluate.max_ap_drop
    asked = {"parts": general, **{v.name: general if v.max_ap_drop is None else v.max_ap_drop for v in recipe.variants}}
    return {column: limit for column, limit in asked.items() if limit is not None}
