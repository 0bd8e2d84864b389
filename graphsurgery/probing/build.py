"""Builds a one-node model that is as wished, and says of it what the target's file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from graphsurgery.probing import moving_bases  # noqa: F401  registers its bases
from graphsurgery.probing.bases import BASES
from graphsurgery.probing.one_node import NotBuilt, OneNode, Operand
from graphsurgery.probing.wishes import Wishes
from graphsurgery.targets.asked import Asked
from graphsurgery.targets.contradictions import has
from graphsurgery.targets.facts import attributes_of, factors_of
from graphsurgery.targets.schema import Rule, Scalar, Target
from graphsurgery.targets.support import Verdict, judge, rule_of

NO_NODE = dict.fromkeys(("If", "Loop", "Scan"), "a node with bodies is more than one node")
NO_NODE |= dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), "it is measured around the nodes that it is for")
NO_NODE |= dict.fromkeys(("RandomUniformLike", "RandomNormalLike"), "there is nothing to compare noise with")
FED, GIVEN, UNWRITTEN = "fed", "given", "unwritten"


@dataclass(frozen=True)
class Built:
    """A one-node model, the rule of the target that counts for it, and what becomes of it by that."""

    node: OneNode
    asked: Asked
    rule: Rule | None
    verdict: Verdict

    def has(self, name: str, value: Scalar) -> bool:
        """Whether the fact of that name came out as wished."""
        return has(self.asked, name, value)


def build(op: str, wishes: Mapping[str, Scalar], target: Target, precision: str, *, unequal: bool = False) -> Built:
    """Return the node of an operator that is as wished, with `unequal` sizes of its axes.

    Raises NotBuilt where there is none, or ONNX has none.
    """
    if op not in BASES:
        raise NotBuilt(NO_NODE.get(op, "the probe has no node of it"))
    plain = {name: value for name, value in wishes.items() if value not in (FED, GIVEN, UNWRITTEN)}
    plain |= {name: "given" for name, value in wishes.items() if (name, value) == ("sizes", FED)}
    expanded = _factored(plain)
    asked_for = Wishes(expanded, unequal)
    try:
        node = BASES[op](asked_for)
    except (ValueError, IndexError, TypeError, KeyError, ZeroDivisionError, StopIteration) as error:
        raise NotBuilt(f"such a node can't be made: {error}") from error
    for name, value in expanded.items():
        if name not in asked_for.seen or (name in _WRITTEN_TOO and name in attributes_of(node.op)):
            node = _written(node, name, value)
    node = replace(node, open_axis=expanded.get("static", True) is False)
    for name, how in wishes.items():
        if how in (FED, GIVEN, UNWRITTEN):
            node = _other_way(node, name, str(how))
    asked = node.asked()
    rule = rule_of(asked.node, asked.opset, target, precision)
    return Built(node, asked, rule, judge(asked.node, asked.opset, target, precision))


# A base looks at these, and they stand in the node all the same
_WRITTEN_TOO = ("mode", "nearest_mode", "coordinate_transformation_mode", "transA", "transB", "sorted")


def _factored(wishes: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the wishes with each product as one of its factors, the others staying as they are usually."""
    found: dict[str, Scalar] = {}
    for name, value in wishes.items():
        names = factors_of(name)
        if len(names) == 1:
            found[name] = value
            continue
        if not isinstance(value, int):
            raise NotBuilt(f"{name} {value} is no whole number")
        usual = [8 if each in ("channels", "height", "width", "out_channels") else 1 for each in names]
        rest = int(np.prod(usual[1:]))
        while value % rest:
            rest //= 2
        found[names[0]] = value // rest
        if len(names) == 2:
            found[names[1]] = rest
    return found


def _written(node: OneNode, name: str, value: Scalar) -> OneNode:
    """Return the node with an attribute, or the values of a stored input, as given; unchanged where it has neither."""
    if name in attributes_of(node.op):
        schema = onnx.defs.get_schema(node.op, node.opset, node.domain)
        if name not in schema.attributes:
            raise NotBuilt(f"opset {node.opset} has no attribute {name}")
        kind = str(schema.attributes[name].type).rpartition(".")[2]
        made = {"INT": int, "FLOAT": float, "STRING": str}.get(kind)
        if (kind == "INTS" and name == "perm") or made is None:
            raise NotBuilt(f"the attribute {name} is no single number or word")
        return replace(node, attributes={**node.attributes, name: made(value)})
    if name == "permutation":
        return replace(node, attributes={"perm": [int(axis) for axis in str(value).split(",")]})
    at = _index_of(node, name)
    if at is None or at >= len(node.operands):
        return node
    there = node.operands[at].value
    if there is None or isinstance(value, str):
        return node
    return node.with_operand(at, Operand(np.full_like(there, value), constant=True))


def _index_of(node: OneNode, name: str) -> int | None:
    if not onnx.defs.has(node.op, node.opset, node.domain):
        return None
    names = [each.name for each in onnx.defs.get_schema(node.op, node.opset, node.domain).inputs]
    return names.index(name) if name in names else None


def _other_way(node: OneNode, name: str, how: str) -> OneNode:
    """Return the node with an input fed that is usually stored, with one more input, or an attribute unwritten."""
    if how == UNWRITTEN and name in node.attributes:
        return replace(node, attributes={key: value for key, value in node.attributes.items() if key != name})
    at = _index_of(node, name)
    if at is None:
        raise NotBuilt(f"opset {node.opset} has no input {name}")
    if how == GIVEN:
        if name != "axes" or node.operands[0].value is None:
            raise NotBuilt(f"the probe has no value for {name}")
        rank = node.operands[0].value.ndim
        return node.with_operand(at, Operand(np.arange(rank, dtype=np.int64), constant=True))
    if at >= len(node.operands) or node.operands[at].value is None:
        raise NotBuilt(f"its node has no {name}")
    return node.with_operand(at, Operand(node.operands[at].value))
