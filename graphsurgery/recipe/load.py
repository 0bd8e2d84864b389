"""A recipe: YAML -> frozen Recipe. A recipe names passes, it never holds code; `schema` says what its keys are."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from graphsurgery.compiling import Compiler
from graphsurgery.compiling.registry import discover as compilers
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.errors import InputError, RecipeError, did_you_mean
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.images.other_inputs import require_value
from graphsurgery.images.preprocessing import PRESETS, Preprocessing
from graphsurgery.recipe.detections import postprocessing
from graphsurgery.recipe.image_schema import ImageKeys
from graphsurgery.recipe.layers import SOURCE_KINDS, find_recipe, load_tree
from graphsurgery.recipe.pass_use import PassUse
from graphsurgery.recipe.plugin_options import make_plugin
from graphsurgery.recipe.schema import (
    CapturePlan,
    Check,
    CutKeys,
    EvaluationPlan,
    PartitionPlan,
    RecipeKeys,
    SearchKeys,
    Source,
    VariantKeys,
    Words,
    part_name,
)
from graphsurgery.recipe.search import Search, search_of
from graphsurgery.recipe.section import Section
from graphsurgery.recipe.target import ChosenTarget, checked_precision, chosen_target
from graphsurgery.rewrite import Pass
from graphsurgery.rewrite.context import PassesFor, none_known
from graphsurgery.rewrite.registry import Registry
from graphsurgery.sources import SourceSpec
from graphsurgery.strict_yaml.positions import Entry, Fields, Items, Node, Place, Scalar, is_null, plain, quoted
from graphsurgery.strict_yaml.validate import check_keys, fields, validate

__all__ = ["CapturePlan", "EvaluationPlan", "PartitionPlan", "PassUse", "Recipe", "Search", "Variant", "load_recipe"]

_SectionT = TypeVar("_SectionT", bound=Section)


@dataclass(frozen=True)
class Variant:
    """The parts made once more, by `part_passes` after the recipe's own, to run on `devices` as --device has them.

    `grants` stand in the place of the recipe's for the passes that they name. `compile` lets the recipe's compilers
    have them. `search` looks for options of `part_passes` first.
    """

    name: str
    part_passes: Mapping[str, tuple[PassUse, ...]]
    devices: Mapping[str, str]
    grants: Mapping[str, Tolerances]
    max_ap_drop: float | None
    on_request: bool
    precision: str | None = None
    compile: bool = False
    search: Search | None = None


@dataclass(frozen=True)
class Recipe:
    """A recipe, merged and checked; `schema` says what each key is.

    `passes_for` tells, for messages, which of the passes that it may name look at an operator, `outputs_apart` which of
    these make outputs of what it gives an output.
    """

    name: str
    file: Path
    source: SourceSpec
    capture: CapturePlan
    passes: tuple[PassUse, ...]
    partition: PartitionPlan | None
    part_passes: Mapping[str, tuple[PassUse, ...]]
    variants: tuple[Variant, ...]
    tolerances: Tolerances
    checked_samples: int | None
    grants: Mapping[str, Tolerances]
    evaluate: EvaluationPlan | None
    merged: Mapping[str, Any]
    compilers: tuple[Compiler, ...] = ()
    target: ChosenTarget | None = None
    passes_for: PassesFor = field(default=none_known, compare=False)
    outputs_apart: PassesFor = field(default=none_known, compare=False)

    @property
    def measured(self) -> EvaluationPlan | None:
        """What AP is measured on, None where none is: a demo source draws its images, others need some."""
        made = self.source.kind == "demo" or (self.evaluate is not None and self.evaluate.images is not None)
        return self.evaluate if made else None

    def to_json(self) -> dict[str, Any]:
        """The merged recipe as plain data, paths absolute, for run.json."""
        return {"name": self.name, **copy.deepcopy(dict(self.merged))}


def load_recipe(
    name_or_path: str, overrides: Sequence[str] = (), *, registry: Registry, weights: str | None = None
) -> Recipe:
    """Read a packaged recipe, or a .yaml file, with the values of `--set` (a.b=c) and `--weights` put in.

    Raises RecipeError, whose message starts with the file and line, or the option, that is at fault.
    """
    path, shown = find_recipe(name_or_path)
    tree = load_tree(path, shown, overrides, weights)
    check_keys(tree, RecipeKeys.model_fields, "the recipe")
    sections = tree.entries
    if "source" not in sections:
        raise RecipeError(f"{shown}:1: a recipe needs a source, its own or that of a recipe which it extends")
    source = replace(
        _source(sections["source"]),
        image=_image(sections.get("image"), sections["source"]),
        detections=_detections(sections.get("detections"), sections["source"]),
    )
    target = chosen_target(sections["target"], registry) if "target" in sections else None
    partition = _partition(sections.get("partition"), target)
    check = sections.get("check")
    checked = _mapping(check, "check").entries
    return Recipe(
        name=path.stem,
        file=path,
        source=source,
        capture=_capture(sections.get("capture")),
        passes=_passes(sections.get("passes"), "passes", registry),
        partition=partition,
        part_passes=_part_passes(sections.get("part_passes"), partition, sections.get("partition"), registry),
        variants=_variants(sections.get("variants"), partition, sections.get("partition"), registry, target),
        tolerances=_tolerances(checked.get("tolerance"), "check.tolerance"),
        checked_samples=_section(check, "check", Check, "tolerance", "grant").samples if check else None,
        grants=_grants(checked.get("grant"), "check.grant", registry),
        evaluate=_evaluation(sections.get("evaluate"), source.kind == "demo"),
        merged=plain(tree),
        compilers=_compilers(sections.get("compile")),
        target=target,
        passes_for=registry.passes_for,
        outputs_apart=registry.outputs_apart,
    )


def _mapping(entry: Entry | None, path: str) -> Fields:
    """The mapping behind a key, an empty one where the key is absent."""
    return Fields({}, Place("", None, Path())) if entry is None else fields(entry, path)


def _section(entry: Entry, path: str, schema: type[_SectionT], *beside: str) -> _SectionT:
    """The section behind a key; the keys `beside` are known too, but read elsewhere."""
    node = fields(entry, path)
    check_keys(node, schema.model_fields, path)
    own = {key: value for key, value in node.entries.items() if key not in beside}
    section: _SectionT = validate(schema, Fields(own, node.place), path, entry.place)
    return section


def _source(entry: Entry) -> SourceSpec:
    _check_inputs(fields(entry, "source").entries.get("inputs"))
    section = _section(entry, "source", Source)
    given = [kind for kind in SOURCE_KINDS if getattr(section, kind) is not None]
    if len(given) != 1:
        seen = " and ".join(given) or "none"
        raise entry.place.error(f"source needs exactly one of {', '.join(SOURCE_KINDS)}; it has {seen}")
    own = fields(entry, "source").entries
    if section.inputs and section.onnx is None:
        raise own["inputs"].place.error("source.inputs is for an ONNX file; the others have an image alone")
    if section.outputs is not None and section.onnx is None:
        raise own["outputs"].place.error("source.outputs is for an ONNX file; the others name theirs themselves")
    if section.batch is not None and section.onnx is None:
        raise own["batch"].place.error("source.batch is for an ONNX file; the others take one image at a time")
    weights = own.get("weights", entry)
    return SourceSpec(
        kind=given[0],
        name=str(getattr(section, given[0])),
        weights=section.weights,
        size=section.size,
        opset=section.opset,
        folder=weights.place.folder,
        inputs=section.inputs,
        outputs=section.outputs,
        batch=section.batch,
    )


def _check_inputs(entry: Entry | None) -> None:
    """Raise RecipeError at the first value that says nothing of an input: of a word, which was perhaps meant."""
    for name, value in _mapping(entry, "source.inputs").entries.items():
        try:
            require_value(name, plain(value.value))
        except InputError as error:
            raise value.place.error(f"source.{error}") from error


def _image(entry: Entry | None, source: Entry) -> Preprocessing:
    if entry is None:
        return Preprocessing()
    if "onnx" not in fields(source, "source").entries:
        raise entry.place.error("image is for an ONNX file; a detector of torchvision or a demo has its own")
    section = _section(entry, "image", ImageKeys)
    keys = {name: getattr(section, name) for name in section.model_fields_set - {"preset"}}
    try:
        return Preprocessing(**{**PRESETS.get(section.preset or "", {}), **keys})
    except InputError as error:
        raise entry.place.error(str(error)) from error


def _detections(entry: Entry | None, source: Entry) -> Postprocessing | None:
    if entry is None:
        return None
    if "onnx" not in fields(source, "source").entries:
        raise entry.place.error("detections is for an ONNX file; a detector of torchvision or a demo has its own")
    return postprocessing(entry)


def _capture(entry: Entry | None) -> CapturePlan:
    if entry is None:
        return CapturePlan()
    plan = _section(entry, "capture", CapturePlan)
    if plan.annotations and not plan.images:
        raise entry.place.error("capture.annotations needs capture.images, the folder with the images that it names")
    return plan


def _evaluation(entry: Entry | None, images_are_made: bool) -> EvaluationPlan | None:
    if entry is None:
        return None
    plan = _section(entry, "evaluate", EvaluationPlan)
    without = images_are_made or plan.protocol is not None
    if bool(plan.images) != bool(plan.annotations) or not (plan.images or without):
        raise entry.place.error("evaluate needs both images and annotations; only a demo source can do without both")
    return plan


def _partition(entry: Entry | None, target: ChosenTarget | None) -> PartitionPlan | None:
    if entry is None:
        return None
    keys = fields(entry, "partition").entries
    at = keys.get("at")
    if at and isinstance(at.value, Items):  # what is wrong in one form of it is no matter of the others
        validate(Words, at.value, "partition.at", at.place)
    elif at and isinstance(at.value, Fields) and not _section(at, "partition.at", CutKeys).model_fields_set:
        raise at.place.error("partition.at names nothing to cut at; give operators, tensors or both")
    plan = _section(entry, "partition", PartitionPlan)
    if plan.at is None and plan.by is None:
        raise entry.place.error("partition lacks 'at', which says where to cut, or 'by: target'")
    if plan.at is not None and plan.by is not None:
        raise keys["by"].place.error("partition.by contradicts partition.at; an inherited one is taken away by `at:`")
    if plan.by is not None and target is None:
        raise keys["by"].place.error("partition.by: target needs the recipe's target; name it: target: rk3588")
    if not plan.parts:
        raise keys["parts"].place.error("partition.parts is empty; write name: device for each part")
    if include := keys.get("include"):
        _check_parts(fields(include, "partition.include"), "partition.include", plan, entry)
    return plan


def _check_parts(node: Fields, path: str, plan: PartitionPlan, partition: Entry) -> None:
    """Raise RecipeError at the first key that isn't the name of a part."""
    for name, entry in node.entries.items():
        if name not in plan.parts:
            where = fields(partition, "partition").entries["parts"].place
            raise entry.place.error(
                f"{path}: there is no part {quoted(name)}.{did_you_mean(name, plan.parts)} "
                f"The parts at {where} are {', '.join(plan.parts)}"
            )


def _part_passes(
    entry: Entry | None,
    plan: PartitionPlan | None,
    partition: Entry | None,
    registry: Registry,
    path: str = "part_passes",
) -> dict[str, tuple[PassUse, ...]]:
    if entry is None:
        return {}
    if plan is None or partition is None:
        raise entry.place.error(f"{path} needs a partition, whose parts it names")
    node = fields(entry, path)
    _check_parts(node, path, plan, partition)
    return {name: _passes(part, f"{path}.{name}", registry) for name, part in node.entries.items()}


def _variants(
    entry: Entry | None,
    plan: PartitionPlan | None,
    partition: Entry | None,
    registry: Registry,
    target: ChosenTarget | None,
) -> tuple[Variant, ...]:
    variants = []
    for name, variant in _mapping(entry, "variants").entries.items():
        path = f"variants.{name}"
        try:
            part_name(name)
        except ValueError as error:
            raise variant.place.error(f"{path}: {str(error).replace('name a part', 'name a variant')}") from error
        section = _section(variant, path, VariantKeys, "part_passes", "grant", "search")
        keys = fields(variant, path).entries
        passes = _part_passes(keys.get("part_passes"), plan, partition, registry, f"{path}.part_passes")
        used = set(plan.parts.values()) if plan else set()
        for device in section.devices:
            if device not in used:
                listed = ", ".join(sorted(used)) or "none"
                raise keys["devices"].place.error(f"{path}.devices: no part is on '{device}'; devices are {listed}")
        if plan is not None and name in plan.parts:
            raise variant.place.error(f"{path}: a part has that name already; call the variant something else")
        grants = _grants(keys.get("grant"), f"{path}.grant", registry)
        if section.precision is not None:
            checked_precision(target, section.precision, keys["precision"].place, f"{path}.precision")
        search = None
        if "search" in keys and not is_null(keys["search"].value):
            asked = _section(keys["search"], f"{path}.search", SearchKeys)
            search = search_of(asked, keys["search"], passes, f"{path}.search")
        more = (section.max_ap_drop, section.on_request, section.precision, section.compile, search)
        variants.append(Variant(name, passes, section.devices, grants, *more))
    return tuple(variants)


def _passes(entry: Entry | None, path: str, registry: Registry) -> tuple[PassUse, ...]:
    if entry is None:
        return ()
    if not isinstance(entry.value, Items):
        raise entry.value.place.error(f"{path} should be a list of passes; write [] for none")
    return tuple(_pass_use(item, path, registry) for item in entry.value.items)


def _pass_use(item: Node, path: str, registry: Registry) -> PassUse:
    """A pass out of its name, or `name: {option: value}`; an option whose value is null is given as None."""
    if isinstance(item, Scalar) and isinstance(item.value, str):
        name, place, options = item.value, item.place, Fields({}, item.place)
    elif isinstance(item, Fields) and len(item.entries) == 1:
        name, entry = next(iter(item.entries.items()))
        place = entry.place
        bare = is_null(entry.value)
        options = Fields({}, place) if bare else fields(entry, f"what follows {quoted(name)}")
    else:
        raise item.place.error(f"an item of {path} is the name of a pass, or name: {{option: value}} with one name")
    return PassUse(
        make_plugin(_pass_class(name, place, registry), f"pass '{name}'", options, place), name, place.file, place.line
    )


def _pass_class(name: str, place: Place, registry: Registry) -> type[Pass]:
    try:
        return registry.get(name)
    except InputError as error:
        raise place.error(str(error)) from error


def _compilers(entry: Entry | None) -> tuple[Compiler, ...]:
    known = compilers()
    found = []
    for name, options in _mapping(entry, "compile").entries.items():
        try:
            kind = known.get(name)
        except InputError as error:
            raise options.place.error(f"compile: {error}") from error
        found.append(make_plugin(kind, f"compiler '{name}'", fields(options, f"compile.{name}"), options.place))
    return tuple(found)


def _tolerances(entry: Entry | None, path: str) -> Tolerances:
    node = _mapping(entry, path)
    for name, tolerance in node.entries.items():
        # One at a time first, so that the error has the line of the entry at fault.
        try:
            Tolerances.parse({name: plain(tolerance.value)})
        except InputError as error:
            raise tolerance.place.error(f"{path}: {error}") from error
    return Tolerances.parse(plain(node))


def _grants(entry: Entry | None, path: str, registry: Registry) -> dict[str, Tolerances]:
    node = _mapping(entry, path)
    for name, grant in node.entries.items():
        if _pass_class(name, grant.place, registry).effect != "approximate":
            raise grant.place.error(f"pass '{name}' is exact; only an approximate pass can be granted a tolerance")
    return {name: _tolerances(grant, f"{path}.{name}") for name, grant in node.entries.items()}
