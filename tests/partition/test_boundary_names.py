from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.graph.names import clean_name, fresh, tensor_names
from graphsurgery.graph.renaming import rename_tensors
from graphsurgery.partition.boundary_names import expose, name_by_value, played
from graphsurgery.sources.row_groups import ROW_GROUPS
from graphsurgery.testing import parse, random_inputs

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


@dataclass(frozen=True)
class Captured:
    """As much of a captured sample as naming looks at."""

    id: str
    tensors: Mapping[str, np.ndarray]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.tensors)

    def load(self, name: str) -> np.ndarray:
        return self.tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def __contains__(self, name: object) -> bool:
        return name in self.tensors


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape or (3, 4)).astype(np.float32)


def named(computed: Mapping[str, np.ndarray], captured: Mapping[str, np.ndarray]) -> dict[str, str]:
    return name_by_value([computed], [Captured("one", captured)], ROW_GROUPS)


# --- names by value -----------------------------------------------------------------------------------------------


def test_a_tensor_gets_the_name_of_the_captured_one_that_it_equals() -> None:
    got = named({"/a": noise(0) + 1e-4, "/b": noise(1)}, {"first": noise(0), "second": noise(1), "third": noise(2)})
    assert got == {"/a": "first", "/b": "second"}


@pytest.mark.parametrize(
    "other",
    [noise(1), noise(0) * 1.1, noise(0).reshape(4, 3), noise(0)[:2], noise(0).astype(np.float64), noise(0) * np.nan],
)
def test_a_tensor_that_equals_none_gets_no_name(other: np.ndarray) -> None:
    assert named({"/a": other}, {"first": noise(0)}) == {}


def test_a_tensor_that_equals_two_captured_ones_gets_no_name() -> None:
    assert named({"/a": noise(0)}, {"first": noise(0), "second": noise(0)}) == {}


def test_two_tensors_that_equal_one_captured_one_get_no_name() -> None:
    assert named({"/a": noise(0), "/b": noise(0)}, {"first": noise(0)}) == {}


def test_a_second_sample_settles_what_the_first_leaves_open() -> None:
    same, other = noise(0), noise(1)
    samples = [Captured("1", {"first": same, "second": same}), Captured("2", {"first": same, "second": other})]
    computed = [{"/a": same, "/b": same}, {"/a": same, "/b": other}]
    assert name_by_value(computed, samples, ROW_GROUPS) == {"/a": "first", "/b": "second"}
    assert name_by_value(computed[:1], samples[:1], ROW_GROUPS) == {}


def test_a_name_that_a_second_sample_contradicts_or_lacks_is_not_given() -> None:
    first = Captured("1", {"first": noise(0)})
    for second in (Captured("2", {"first": noise(1)}), Captured("2", {})):
        assert name_by_value([{"/a": noise(0)}] * 2, [first, second], ROW_GROUPS) == {}


def test_empty_tensors_give_no_name_and_take_none_away() -> None:
    empty = np.zeros((0, 4), np.float32)
    assert named({"/a": empty}, {"first": empty}) == {}
    samples = [Captured("1", {"first": noise(0)}), Captured("2", {"first": empty})]
    assert name_by_value([{"/a": noise(0)}, {"/a": empty}], samples, ROW_GROUPS) == {"/a": "first"}
    assert name_by_value([{"/a": noise(0)}, {"/a": np.zeros((0, 5), np.float32)}], samples, ROW_GROUPS) == {}


def test_integers_must_be_equal() -> None:
    labels = np.array([1000, 2], np.int64)
    assert named({"/a": labels}, {"labels": labels}) == {"/a": "labels"}
    assert named({"/a": labels + 1}, {"labels": labels}) == {}


def test_boxes_in_another_order_are_the_same_boxes_and_their_rows_go_along() -> None:
    corners = np.abs(noise(0, 50, 2)) * 100
    boxes = np.concatenate([corners, corners + 10 + np.abs(noise(1, 50, 2)) * 50], axis=1)
    features = noise(2, 50, 7)
    order = np.arange(50)
    order[[3, 4, 20, 21]] = order[[4, 3, 21, 20]]
    got = named({"/b": boxes[order], "/f": features[order]}, {"boxes": boxes, "features": features})
    assert got == {"/b": "boxes", "/f": "features"}
    assert named({"/b": boxes[order], "/f": features}, {"boxes": boxes, "features": features[::-1]}) == {"/b": "boxes"}


def detections(order: Sequence[int]) -> dict[str, np.ndarray]:
    """Return three detections, the first two of the same place and nearly the same score."""
    found = {
        "boxes": np.array([[0, 0, 50, 50], [0, 0, 50, 50.1], [200, 0, 250, 50]], np.float32),
        "labels": np.array([2, 7, 1]),
        "scores": np.array([0.442666, 0.442664, 0.1], np.float32),
        "masks": noise(0, 3, 8, 8),
    }
    return {name: value[np.array(order)] for name, value in found.items()}


def test_rows_that_go_with_detections_are_found_when_two_of_these_change_places() -> None:
    captured, computed = detections([0, 1, 2]), detections([1, 0, 2])
    masks = {"/roi_heads/Slice_12": computed.pop("masks")}
    assert name_by_value([masks], [Captured("1", captured)], ROW_GROUPS) == {}
    assert name_by_value([masks], [Captured("1", captured)], ROW_GROUPS, [computed]) == {"/roi_heads/Slice_12": "masks"}
    wrong = {"/roi_heads/Slice_12": detections([2, 0, 1])["masks"]}
    assert name_by_value([wrong], [Captured("1", captured)], ROW_GROUPS, [computed]) == {}


def test_proposals_that_a_tie_has_exchanged_are_the_same_proposals() -> None:
    corners = np.stack([np.arange(50) * 30, np.zeros(50)], axis=1)
    considered = np.concatenate([corners, corners + 25], axis=1).astype(np.float32)
    scores = np.linspace(1e-8, 0, 50, dtype=np.float32)
    features = noise(0, 50, 7)
    aside = {"proposal_scores": scores[:30], "proposals_considered": considered, "proposals_considered_scores": scores}
    captured = {"proposals": considered[:30], "box_features": features[:30]}
    computed = {"/b": considered[20:], "/f": features[20:]}
    assert named(computed, captured) == {}
    assert named(computed, {**captured, **aside}) == {"/b": "proposals", "/f": "box_features"}
    better = {**aside, "proposal_scores": scores[:30] + np.float32(0.5)}
    assert named(computed, {**captured, **better}) == {}


def test_nothing_computed_gets_no_names() -> None:
    assert name_by_value([], [], ROW_GROUPS) == {}
    assert name_by_value([{}], [Captured("1", {"first": noise(0)})], ROW_GROUPS) == {}


# --- values -------------------------------------------------------------------------------------------------------

TEXT = f"""{HEAD}
    g (float[2] x, bool c) => (float[2] y) <float[2] w = {{1, 2}}, float[2] a_type> {{
        a = Add (x, w)
        y = If (c) <
            then_branch = t () => (float[2] p) {{ p = Neg (a) }},
            else_branch = e () => (float[2] q) {{ m = Mul (a, w)  q = Neg (m) }}
        >
    }}"""


def test_computes_outputs_and_inner_tensors_and_hands_inputs_through() -> None:
    model = Model(parse(TEXT))
    x = np.array([1, 1], np.float32)
    samples = [Captured("1", {"x": x, "c": np.array(True)}), Captured("2", {"x": 2 * x, "c": np.array(False)})]
    got = played(model, ["a", "x"], samples)  # type: ignore[arg-type]
    assert [{name: value.tolist() for name, value in each.items()} for each in got] == [
        {"a": [2, 3], "x": [1, 1], "y": [-2, -3]},
        {"a": [3, 4], "x": [2, 2], "y": [-3, -8]},
    ]
    assert [list(each) for each in played(model, [], samples)] == [["y"], ["y"]]  # type: ignore[arg-type]
    assert [info.name for info in expose(model, ["a"]).graph.output] == ["a"]
    assert [info.name for info in model.proto.graph.output] == ["y"]


# --- renaming -----------------------------------------------------------------------------------------------------


def outputs_agree(before: Model, after: Model) -> None:
    given = random_inputs(before.proto)
    renamed = dict(zip([i.name for i in after.proto.graph.input], given.values(), strict=True))
    expected, got = session.run(before.proto, given), session.run(after.proto, renamed)
    for one, other in zip(expected.values(), got.values(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("names", [{"a": "features"}, {"x": "image", "y": "boxes"}, {"w": "weight", "m": "inner"}])
def test_renames_tensors_in_bodies_too(names: dict[str, str]) -> None:
    before = Model(parse(TEXT))
    after = rename_tensors(before, names)
    onnx.checker.check_model(after.proto, full_check=True)
    assert tensor_names(after.proto) == {names.get(name, name) for name in tensor_names(before.proto)}
    outputs_agree(before, after)
    assert before.proto == parse(TEXT)


def test_a_tensor_that_has_the_wanted_name_makes_way() -> None:
    before = Model(parse(TEXT))
    after = rename_tensors(before, {"a": "w"})
    onnx.checker.check_model(after.proto, full_check=True)
    assert {"w", "w_inner"} <= tensor_names(after.proto)
    assert [t.name for t in after.proto.graph.initializer] == ["w_inner"]
    outputs_agree(before, after)


def test_two_tensors_change_names() -> None:
    before = Model(parse(TEXT))
    after = rename_tensors(before, {"a": "w", "w": "a"})
    assert [t.name for t in after.proto.graph.initializer] == ["a"]
    outputs_agree(before, after)


def test_an_input_or_output_does_not_make_way() -> None:
    before = Model(parse(TEXT))
    for wanted in ("x", "y"):
        assert rename_tensors(before, {"a": wanted}).fingerprint == before.fingerprint
    after = rename_tensors(before, {"a": "y", "y": "z"})
    assert [info.name for info in after.proto.graph.output] == ["z"]
    assert "y" in tensor_names(after.proto)
    outputs_agree(before, after)


def test_types_annotations_and_sparse_weights_are_renamed_with_the_tensor() -> None:
    proto = parse(f"{HEAD} g (float[3] x) => (float[3] y) {{ a = Add (x, s)  y = Neg (a) }}")
    values = numpy_helper.from_array(np.array([5.0], np.float32), "s")
    where = numpy_helper.from_array(np.array([1], np.int64), "")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, where, [3]))
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [3]))
    note = proto.graph.quantization_annotation.add(tensor_name="a")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    graph = rename_tensors(Model(proto), {"a": "b", "s": "t"}).proto.graph
    assert (graph.value_info[0].name, graph.sparse_initializer[0].values.name) == ("b", "t")
    assert graph.quantization_annotation[0].tensor_name == "b"
    assert graph.quantization_annotation[0].quant_parameter_tensor_names[0].value == "t"
    onnx.checker.check_model(rename_tensors(Model(proto), {"a": "b", "s": "t"}).proto)


def test_no_names_leave_the_model_itself() -> None:
    model = Model(parse(TEXT))
    assert rename_tensors(model, {}) is model


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("/rpn/head/Conv_output_0", "rpn_head_Conv_output_0"),
        ("onnx::Shape_1", "onnx_Shape_1"),
        ("///", "tensor"),
        ("x.1", "x.1"),
    ],
)
def test_an_exporters_name_becomes_letters_digits_dots_and_underscores(name: str, clean: str) -> None:
    assert clean_name(name) == clean


def test_a_fresh_name_is_not_taken() -> None:
    assert fresh("a", set()) == "a"
    assert fresh("a", {"a"}) == "a_2"
    assert fresh("a", {"a", "a_2", "a_3"}) == "a_4"
