"""For the tests of passes: a rewrite, and a refusal, as ONNX text that fits one screen.

assert_rewrites(DropIdentity(), '''
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 4] x) => (float[1, 4] y) {
        a = Identity (x)
        y = Relu (a)
    }''', '''...''')
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import GraphProto, ModelProto

from graphsurgery.devices import session
from graphsurgery.graph.expansion import expanded
from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import bodies, walk_protos
from graphsurgery.rewrite import Applied, Pass, apply_pass
from graphsurgery.runtime.random_inputs import random_inputs

# onnxruntime sums in another order after a rewrite; anything above a few float32 roundings is the pass's fault
RELATIVE = 1e-5


def assert_rewrites(
    pass_: Pass,
    before: str | ModelProto,
    after: str | ModelProto,
    inputs: Mapping[str, np.ndarray] | None = None,
    outputs_agree: bool | None = None,
) -> Applied:
    """Assert that `pass_` turns `before` into `after`: nodes, interface and initializer values are equal.

    Also: the result is valid, a second run changes nothing, and, for an exact pass (or `outputs_agree`),
    onnxruntime gives the same on `inputs` (random ones when None). Names of nodes, doc strings and value_info do
    not count; names of tensors do.
    """
    model = Model(parse(before))
    applied = apply_pass(pass_, model)
    expected, got = _text(parse(after)), _text(applied.model.proto)
    assert got == expected, f"\n--- expected\n{expected}\n--- got\n{got}\n--- skips: {applied.skips}"
    onnx.checker.check_model(expanded(applied.model.proto), full_check=True)
    again = apply_pass(pass_, applied.model)
    assert _text(again.model.proto) == got, f"a second run changes it again:\n{_text(again.model.proto)}"
    if outputs_agree if outputs_agree is not None else pass_.effect == "exact":
        assert_same_outputs(model.proto, applied.model.proto, inputs)
    return applied


def assert_untouched(pass_: Pass, before: str | ModelProto, reason: str | None) -> None:
    """Assert that `pass_` changes nothing, and that a refusal contains `reason` (None: it does not even look)."""
    model = Model(parse(before))
    applied = apply_pass(pass_, model)
    expected, got = _text(model.proto), _text(applied.model.proto)
    assert got == expected, f"\n--- expected no change of\n{expected}\n--- got\n{got}"
    reasons = [skip.reason for skip in applied.skips]
    if reason is None:
        assert not reasons, f"looked at a node that is none of its business: {reasons}"
    else:
        assert any(reason in given for given in reasons), f"no refusal says '{reason}': {reasons}"


def assert_same_outputs(
    before: ModelProto, after: ModelProto, inputs: Mapping[str, np.ndarray] | None = None, relative: float = RELATIVE
) -> None:
    """Assert that onnxruntime, optimisation off, computes the same outputs for both models."""
    given = dict(inputs) if inputs is not None else random_inputs(before)
    expected, got = session.run(before, given), session.run(after, given)
    assert_same_values(expected, got, relative=relative, scale=largest(given))


def assert_same_values(
    expected: Mapping[str, np.ndarray],
    got: Mapping[str, np.ndarray],
    *,
    relative: float = RELATIVE,
    scale: float = 0.0,
    values: bool = True,
) -> None:
    """Assert that outputs have the same names, shapes, types and, unless `values` is False, values.

    Numbers may differ by `relative` of the largest one, and by a few roundings of their type at `scale`: where numbers
    of that size cancel out, as in the mean of 3 and -3, the rounding of what was summed up is all that is left.
    """
    assert list(expected) == list(got), f"outputs {list(got)} instead of {list(expected)}"
    for name, value in expected.items():
        other = got[name]
        assert (value.shape, value.dtype) == (other.shape, other.dtype), (
            f"{name}: {other.dtype}{list(other.shape)} instead of {value.dtype}{list(value.shape)}"
        )
        if not values:
            continue
        if value.dtype.kind == "f":
            roundings = 4 * float(np.finfo(value.dtype).eps)
            allowed = max(relative, roundings)
            absolute = max(allowed * largest({name: value}), roundings * scale)
            np.testing.assert_allclose(other, value, rtol=allowed, atol=absolute, err_msg=name)
        else:
            np.testing.assert_array_equal(other, value, err_msg=name)


def largest(values: Mapping[str, np.ndarray]) -> float:
    """Return the largest finite magnitude among floating-point tensors, 0 where there is none."""
    floats = (value for value in values.values() if value.dtype.kind == "f")
    return max((float(np.max(np.abs(value[np.isfinite(value)]), initial=0.0)) for value in floats), default=0.0)


def parse(text: str | ModelProto) -> ModelProto:
    return onnx.parser.parse_model(inspect.cleandoc(text)) if isinstance(text, str) else text


def _text(model: ModelProto) -> str:
    bare = ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    bare.producer_name = ""
    _strip(bare.graph)
    # the printer rounds values, differently in each version of onnx: they are compared by themselves
    graphs = [bare.graph, *(body for node in walk_protos(bare.graph) for body in bodies(node))]
    weights = [(t.name, t) for graph in graphs for t in graph.initializer]
    weights += [
        (f"{node.output[0]}.{attribute.name}", attribute.t)
        for node in walk_protos(bare.graph)
        for attribute in node.attribute
        if attribute.HasField("t")
    ]
    arrays = [(name, onnx.numpy_helper.to_array(tensor)) for name, tensor in weights]
    lines = sorted(f"{name} = {array.dtype}{list(array.shape)} {array.tolist()}" for name, array in arrays)
    del bare.graph.initializer[:]
    return "\n".join([onnx.printer.to_text(bare), *lines])


def _strip(graph: GraphProto) -> None:
    graph.name = graph.doc_string = ""
    del graph.value_info[:]
    for node in graph.node:
        node.name = node.doc_string = ""
        attributes = sorted(node.attribute, key=lambda attribute: attribute.name)
        del node.attribute[:]
        node.attribute.extend(attributes)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)
