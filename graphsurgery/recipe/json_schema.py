"""The schema of recipes as a JSON schema, with which editors complete and check a recipe while it is written.

It takes whatever the loader takes, and refuses what the loader refuses as far as the file alone tells it. A recipe that
extends another may leave out what it inherits, and write null to take an inherited value away; one that stands alone
may not.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_jsonable_python

from graphsurgery.compiling import Compiler
from graphsurgery.compiling.registry import discover as compilers
from graphsurgery.parts.ap_protocol import ApProtocol
from graphsurgery.recipe.layers import SOURCE_KINDS, packaged_recipes
from graphsurgery.recipe.plugin_options import PassOption, plugin_options
from graphsurgery.recipe.schema import (
    Check,
    CutKeys,
    IsReplaced,
    PassItem,
    RecipeKeys,
    ToleranceKeys,
    VariantKeys,
    marked,
)
from graphsurgery.rewrite import Pass
from graphsurgery.rewrite.registry import Registry, picture

Schema = dict[str, Any]
_Key = TypeVar("_Key", bound=Hashable)

DRAFT = "https://json-schema.org/draft/2020-12/schema"
REF = "#/$defs/"
_NEVER: Schema = {"not": {}}
_NULL: Schema = {"type": "null"}
_REPLACED = {path for path, _ in marked(IsReplaced)}


def json_schema(registry: Registry) -> Schema:
    """Return the JSON schema (draft 2020-12) of a recipe that may name the passes in `registry`."""
    root, shared = key_schemas()
    passes = [registry.get(name) for name in registry.names()]
    known = compilers()
    made_by = [known.get(name) for name in known.names()]
    options, named = _option_schemas([*passes, *made_by])
    root["properties"]["compile"] |= {
        "properties": {kind.name: _with_options(kind, options[kind.name]) for kind in made_by},
        "additionalProperties": False,
    }
    shared[PassItem.__name__] |= _pass_item(passes, options)
    for keys in (Check, VariantKeys):
        grant = shared[keys.__name__]["properties"]["grant"]
        tolerances = grant["additionalProperties"]
        grant["properties"] = {cls.name: tolerances for cls in passes if cls.effect == "approximate"}
        grant["additionalProperties"] = False

    inherits: dict[str, Schema] = {}
    extending = _extending(root, shared, inherits)
    kinds = [_given(kind) for kind in SOURCE_KINDS]
    inherits["Source.extending"]["oneOf"] = [*kinds, {"not": {"anyOf": kinds}}]
    _add_rules(root, shared)
    path_of_yaml = {"pattern": r"\.[Yy][Aa]?[Mm][Ll]$"}
    extends = root["properties"]["extends"] | {"anyOf": [{"enum": list(packaged_recipes())}, path_of_yaml]}
    root["properties"]["extends"] = extending["properties"]["extends"] = extends
    return {
        "$schema": DRAFT,
        "title": "A recipe of graphsurgery",
        "description": root.pop("description"),
        "type": "object",
        "if": {"required": ["extends"]},
        "then": extending,
        "else": root,
        "$defs": shared | inherits | named,
    }


def key_schemas() -> tuple[Schema, dict[str, Schema]]:
    """Return what a recipe may be, and what it refers to by name: the models of `schema`.

    Left open is what a registry knows: the names of passes, and their options.
    """
    _, shared = _generate({RecipeKeys.__name__: TypeAdapter(RecipeKeys)}, "")
    for schema in shared.values():
        schema.pop("title", None)
        if "description" in schema:
            schema["description"] = " ".join(schema["description"].split())
    return shared.pop(RecipeKeys.__name__), shared


class _Generate(GenerateJsonSchema):
    """What pydantic makes of a type, alike in all its versions."""

    def sort(self, value: Any, parent_key: str | None = None) -> Any:
        return value  # in the order in which the fields stand

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # it would be the key once more

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        return dict(_NEVER)  # a type that only Python code can give, such as a function

    def default_schema(self, schema: Any) -> Schema:
        made: Schema = super().default_schema(schema)
        if made.get("default") is None or isinstance(made["default"], dict | list):  # it means: nothing
            made.pop("default", None)
        return made

    def literal_schema(self, schema: Any) -> Schema:
        made: Schema = super().literal_schema(schema)
        if "const" in made:
            made.pop("enum", None)
        return made

    def nullable_schema(self, schema: Any) -> Schema:
        made: Schema = super().nullable_schema(schema)
        inner = [branch for branch in made.get("anyOf", ()) if branch != _NULL]
        return _or_null(inner[0]) if len(inner) == 1 else made

    def dict_schema(self, schema: Any) -> Schema:
        """Refuse a key that doesn't match the pattern of the keys; pydantic lets it stand, with any value."""
        made: Schema = super().dict_schema(schema)
        for pattern, values in made.pop("patternProperties", {}).items():
            made |= {"propertyNames": {"pattern": pattern}, "additionalProperties": values}
        return made


def _generate(adapters: Mapping[_Key, TypeAdapter[Any]], prefix: str) -> tuple[dict[_Key, Schema], dict[str, Schema]]:
    """Return the schema of each type, and what these refer to by name, where every name begins with `prefix`."""
    made, definitions = TypeAdapter.json_schemas(
        [(key, "validation", adapter) for key, adapter in adapters.items()],
        schema_generator=_Generate,
        ref_template=f"{REF}{prefix}{{model}}",
    )
    named = {prefix + name: schema for name, schema in definitions.get("$defs", {}).items()}
    return {key: schema for (key, _), schema in made.items()}, named


def _with_options(kind: type[Compiler], options: Mapping[str, Schema]) -> Schema:
    required = [name for name, option in plugin_options(kind).items() if option.required]
    return {
        "description": " ".join(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].split()),
        "type": "object",
        "properties": dict(options),
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _option_schemas(
    passes: Sequence[type[Pass] | type[Compiler]],
) -> tuple[dict[str, dict[str, Schema]], dict[str, Schema]]:
    """Return the schemas of the options of each pass or compiler, and what these refer to by name."""
    options = {(cls.name, name): option for cls in passes for name, option in plugin_options(cls).items()}
    adapters = {}
    for key, option in options.items():
        with suppress(PydanticSchemaGenerationError):  # a type that no recipe can give a value of
            adapters[key] = TypeAdapter(option.type)
    made, named = _generate(adapters, "option.")
    schemas: dict[str, dict[str, Schema]] = {cls.name: {} for cls in passes}
    for key, option in options.items():
        schemas[key[0]][key[1]] = _with_default(made.get(key, _NEVER), option)
    return schemas, named


def _with_default(schema: Schema, option: PassOption) -> Schema:
    if schema == _NEVER:
        return schema
    default = to_jsonable_python(option.default, serialize_unknown=True, inf_nan_mode="null")
    return schema if default in (None, [], {}) else schema | {"default": default}


def _pass_item(passes: Sequence[type[Pass]], options: Mapping[str, Mapping[str, Schema]]) -> Schema:
    """Return what an item in a list of passes may be: a name, or one name with its options."""
    names, with_options = [], {}
    for cls in passes:
        summary, effect, *about = _paragraphs(cls)
        required = [name for name, option in plugin_options(cls).items() if option.required]
        if not required:
            names.append({"const": cls.name, "description": f"{summary} {effect}"})
        with_options[cls.name] = {
            "description": "\n\n".join([summary, effect, *about]),
            "type": "object" if required else ["object", "null"],
            "properties": options[cls.name],
            **({"required": required} if required else {}),
            "additionalProperties": False,
        }
    one = {"minProperties": 1, "maxProperties": 1, "additionalProperties": False}
    return {
        "description": "a pass: its name, or `name: {option: value}`",
        "anyOf": [{"anyOf": names}, {"type": "object", "properties": with_options, **one}],
    }


def _paragraphs(cls: type[Pass]) -> list[str]:
    """Return what a pass does, its effect, and what it says of its options."""
    summary = picture(cls).partition("\n\n")[0]
    effect = "It is exact." if cls.effect == "exact" else "It is approximate: check.grant says what it may cost."
    about = inspect.cleandoc(cls.__doc__ or "")
    if about.startswith(f"{cls.__name__}("):  # what a dataclass says of itself
        about = ""
    return [" ".join(text.split()) for text in (summary, effect, about) if text]


def _given(key: str) -> Schema:
    """Return what a mapping is that has a value under `key`; an editor is to offer no key on account of it."""
    return {"required": [key], "not": {"required": [key], "properties": {key: _NULL}}}


def _extending(
    schema: Schema, shared: Mapping[str, Schema], inherits: dict[str, Schema], path: tuple[str, ...] = ()
) -> Schema:
    """Return `schema` as a recipe has it that extends another: it may leave out what it inherits, or take it away.

    `path` is the key that `schema` stands under, with * for a name that the recipe chooses. What is referred to by name
    goes into `inherits`, under a name of its own.
    """
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(REF)
        inherits[f"{name}.extending"] = _extending(shared[name], shared, inherits, path)
        return schema | {"$ref": f"{REF}{name}.extending"}
    made = {key: value for key, value in schema.items() if key != "required"}
    if "anyOf" in schema:
        made["anyOf"] = [_extending(branch, shared, inherits, path) for branch in schema["anyOf"]]
    if "properties" in schema:
        made["properties"] = below = {}
        for key, value in schema["properties"].items():
            changed = _extending(value, shared, inherits, (*path, key))
            below[key] = changed if key in schema.get("required", ()) else _or_null(changed)
    if schema.get("additionalProperties") and path not in _REPLACED:
        made["additionalProperties"] = _or_null(
            _extending(schema["additionalProperties"], shared, inherits, (*path, "*"))
        )
    return made


def _add_rules(root: Schema, shared: Mapping[str, Schema]) -> None:
    """Add the rules of `load` that hold between the keys of a recipe that stands alone."""
    shared["Source"]["oneOf"] = [_given(kind) for kind in SOURCE_KINDS]
    for keys in (ToleranceKeys, CutKeys):
        shared[keys.__name__]["anyOf"] = [_given(key) for key in keys.model_fields]
    shared["PartitionPlan"]["oneOf"] = [_given("at"), _given("by")]
    shared["CapturePlan"] |= {"if": _given("annotations"), "then": _given("images")}
    both = [_given("images"), _given("annotations")]
    shared["EvaluationPlan"] |= {"if": {"anyOf": both}, "then": {"allOf": both}}
    protocol = [_given(key) for key in ApProtocol.model_fields]
    is_demo = {"required": ["source"], "properties": {"source": {"type": "object"} | _given("demo")}}
    of_parts = {"anyOf": [{"required": ["part_passes"]}, {"not": {"properties": {"devices": {"maxProperties": 0}}}}]}
    # with all that is said of the key, so that an editor takes both for one
    evaluate, variants = root["properties"]["evaluate"], root["properties"]["variants"]
    root["allOf"] = [
        {"if": is_demo, "else": {"properties": {"evaluate": evaluate | {"anyOf": [{"allOf": both}, *protocol]}}}},
        {
            "if": {"not": {"required": ["partition"]}},
            "then": {
                "not": {"required": ["part_passes"]},
                "properties": {"variants": variants | {"additionalProperties": {"not": of_parts}}},
            },
        },
    ]


def _takes_null(schema: Schema) -> bool:
    return "null" in schema.get("type", ()) or any(_takes_null(branch) for branch in schema.get("anyOf", ()))


def _or_null(schema: Schema) -> Schema:
    if _takes_null(schema):
        return schema
    if "anyOf" in schema:
        return schema | {"anyOf": [*schema["anyOf"], _NULL]}
    if isinstance(schema.get("type"), str) and not schema.keys() & {"enum", "const"}:
        return schema | {"type": [schema["type"], "null"]}
    about = {key: value for key, value in schema.items() if key in ("description", "default", "examples")}
    return {"anyOf": [{key: value for key, value in schema.items() if key not in about}, _NULL]} | about
