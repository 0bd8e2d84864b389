import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from graphsurgery.devices import session
from graphsurgery.errors import CaptureError, PassError, RecipeError
from graphsurgery.graph.model import Model
from graphsurgery.passes.quantize import Quantize
from graphsurgery.recipe.load import load_recipe
from graphsurgery.rewrite import BATCH_NOTE, Applied, PassContext, apply_pass
from graphsurgery.rewrite.registry import discover
from graphsurgery.testing import assert_untouched, parse, random_inputs

CONVS = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 8, 8] x) => (float[1, 2, 8, 8] y, float[1, 4, 8, 8] z) <float[4, 3, 3, 3] w1, float[2, 4, 1, 1] w2> {
        [first] a = Conv <pads = [1, 1, 1, 1]> (x, w1)
        [act] z = Relu (a)
        [second] y = Conv (z, w2)
    }"""
HEAD = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[4, 6] box_features) => (float[4, 5] class_logits) <float[6, 8] w1, float[8, 5] w2, float[5] b2> {
        [first] a = MatMul (box_features, w1)
        r = Relu (a)
        [last] class_logits = Gemm (r, w2, b2)
    }"""


class Captured:
    def __init__(self, id_: str, tensors: dict[str, np.ndarray]) -> None:
        self.id, self.tensors = id_, tensors

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def load(self, name: str) -> np.ndarray:
        return self.tensors[name]


def filled(text: str) -> Model:
    model = parse(text)
    generator = np.random.default_rng(5)
    for info in [info for info in model.graph.value_info if info.name.startswith(("w", "b"))]:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        value = generator.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, info.name))
        model.graph.value_info.remove(info)
    return Model(model)


def samples(model: Model, count: int = 3) -> list[Captured]:
    return [Captured(str(seed), random_inputs(model.proto, seed)) for seed in range(count)]


def apply(
    pass_: Quantize, model: Model, given: Sequence[Captured] | None = None, steps: list[tuple[int, int]] | None = None
) -> Applied:
    told: list[tuple[int, int]] = [] if steps is None else steps
    given = samples(model) if given is None else given
    applied = apply_pass(pass_, model, PassContext(given, lambda *step: told.append(step)))
    applied.model.check("the quantized model")
    return applied


def batched(rows: Sequence[int]) -> tuple[Model, list[Captured]]:
    model = filled(HEAD)
    entry = model.proto.metadata_props.add()
    entry.key, entry.value = BATCH_NOTE, json.dumps({"size": 4})
    generator = np.random.default_rng(3)
    given = [
        Captured(str(number), {"box_features": generator.standard_normal((count, 6)).astype(np.float32)})
        for number, count in enumerate(rows)
    ]
    return model, given


def is_quantized(model: ModelProto) -> bool:
    return any("QuantizeLinear" in node.op_type for node in model.graph.node)


# --- what it does -------------------------------------------------------------------------------------------------


def test_layers_are_quantized_and_the_interface_is_kept() -> None:
    model = filled(CONVS)
    applied = apply(Quantize(), model)
    assert is_quantized(applied.model.proto)
    for kind in ("input", "output"):
        assert list(getattr(applied.model.proto.graph, kind)) == list(getattr(model.proto.graph, kind))
    given = samples(model)[1].tensors
    for name, value in session.run(model.proto, given).items():
        got = session.run(applied.model.proto, given)[name]
        assert 10 * np.log10(np.sum(value**2) / np.sum((value - got) ** 2)) > 30


def test_the_details_say_what_was_done_and_what_it_cost() -> None:
    applied = apply(Quantize(exclude=("sec*",), exclude_ops=("Relu",)), filled(CONVS))
    details = applied.details
    assert json.loads(json.dumps(details)) == details
    assert set(details) == {"backend", "feeds", "excluded", "sqnr_db"}
    assert details["backend"] == "onnxruntime"
    assert details["feeds"] == 3
    assert details["excluded"] == ["act", "second"]
    assert set(details["sqnr_db"]) == {"y", "z"}
    assert all(20 < value < 60 for value in details["sqnr_db"].values())


def test_the_style_of_a_systolic_array_is_written_and_told_like_any_other() -> None:
    applied = apply(Quantize(style="systolic", explain=True), filled(CONVS))
    written = {node.op_type for node in applied.model.proto.graph.node}
    assert written == {"QuantizeLinear", "QLinearConv", "QLinearRelu", "DequantizeLinear"}
    assert all(value > 30 for value in applied.details["sqnr_db"].values())
    assert {"first", "second"} <= {layer["name"] for layer in applied.details["layers"]}
    assert_untouched(Quantize(style="systolic"), applied.model.proto, "it is quantized already")


def test_the_style_of_a_systolic_array_leaves_layers_float_to_reach_a_goal() -> None:
    model = filled(CONVS)
    lost = min(apply(Quantize(style="systolic"), model).details["sqnr_db"].values())
    applied = apply(Quantize(style="systolic", exclude="auto", sqnr_goal=lost + 1), model)
    assert applied.details["excluded"]
    assert all(value is None or value >= lost + 1 for value in applied.details["sqnr_db"].values())


def test_the_figure_is_signal_to_noise_over_all_samples() -> None:
    model = filled(CONVS)
    applied = apply(Quantize(), model)
    signal = noise = 0.0
    for sample in samples(model):
        value, got = (session.run(each.proto, sample.tensors)["y"] for each in (model, applied.model))
        signal, noise = signal + float(np.sum(value**2)), noise + float(np.sum((value - got) ** 2))
    assert applied.details["sqnr_db"]["y"] == pytest.approx(10 * np.log10(signal / noise), abs=0.02)


def test_an_output_that_nothing_is_lost_of_has_no_figure() -> None:
    text = CONVS.replace("y = Conv (z, w2)", "y = Conv (z, w2)\n        n = Neg (x)").replace(
        "float[1, 4, 8, 8] z)", "float[1, 4, 8, 8] z, float[1, 3, 8, 8] n)"
    )
    applied = apply(Quantize(exclude=("first", "n_Neg")), filled(text))
    assert applied.details["sqnr_db"]["n"] is None


def test_an_output_of_noise_alone_has_a_figure_too() -> None:
    nothing = "c = Conv (z, w2)\n        [float] d = Conv (z, w2)\n        y = Sub (c, d)"
    applied = apply(Quantize(exclude=("float",)), filled(CONVS.replace("y = Conv (z, w2)", nothing)))
    assert applied.details["sqnr_db"]["y"] == -999.0


def test_a_frozen_batch_is_filled_and_rows_that_fill_it_do_not_count() -> None:
    model, given = batched([3, 0, 6])
    applied = apply(Quantize(), model, given)
    assert applied.details["feeds"] == 3
    signal = noise = 0.0
    for sample in given:
        for start in range(0, len(sample.tensors["box_features"]), 4):
            rows = sample.tensors["box_features"][start : start + 4]
            feed = {"box_features": np.concatenate([rows, np.zeros((4 - len(rows), 6), np.float32)])}
            value, got = (session.run(each.proto, feed)["class_logits"][: len(rows)] for each in (model, applied.model))
            signal, noise = signal + float(np.sum(value**2)), noise + float(np.sum((value - got) ** 2))
    assert applied.details["sqnr_db"]["class_logits"] == pytest.approx(10 * np.log10(signal / noise), abs=0.02)
    assert dict((e.key, e.value) for e in applied.model.proto.metadata_props)[BATCH_NOTE]


def test_zero_rows_of_the_padding_do_not_change_the_ranges() -> None:
    model, given = batched([3])
    given[0].tensors["box_features"] += 10  # so that no row is near 0, unless it is padding
    by_rows = apply(Quantize(method="percentile"), model, given).model.proto
    full = [Captured("0", {"box_features": np.tile(given[0].tensors["box_features"], (4, 1))})]
    assert apply(Quantize(method="percentile"), model, full).model.proto == by_rows


def test_samples_limits_how_many_are_used() -> None:
    assert apply(Quantize(samples=2), filled(CONVS)).details["feeds"] == 2


def test_a_second_run_changes_nothing_and_says_why() -> None:
    first = apply(Quantize(), filled(CONVS))
    again = apply(Quantize(), first.model)
    assert again.model.fingerprint == first.model.fingerprint
    assert [skip.reason for skip in again.skips] == ["it is quantized already"]


def test_two_runs_give_the_same_model() -> None:
    assert apply(Quantize(), filled(CONVS)).model.fingerprint == apply(Quantize(), filled(CONVS)).model.fingerprint


def test_nodes_without_a_name_can_be_excluded_by_the_one_they_get() -> None:
    model = filled(CONVS)
    for node in model.proto.graph.node:
        node.name = ""
    assert apply(Quantize(exclude=("y_*",)), model).details["excluded"] == ["y_Conv"]


def test_the_bar_moves_forward_to_its_end() -> None:
    steps: list[tuple[int, int]] = []
    apply(Quantize(method="percentile"), filled(CONVS), steps=steps)
    shares = [done / total for done, total in steps]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_external_weights_are_read(tmp_path: Path) -> None:
    model = filled(CONVS)
    path = tmp_path / "model.onnx"
    onnx.save(model.proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    outside = Model.load(path)
    assert outside.proto.graph.initializer[0].data_location
    plain = apply(Quantize(), filled(CONVS))
    assert apply(Quantize(), outside, samples(model)).details == plain.details


# --- layers -------------------------------------------------------------------------------------------------------


def test_explain_ranks_the_layers() -> None:
    layers = apply(Quantize(explain=True), filled(CONVS)).details["layers"]
    assert {layer["name"] for layer in layers} >= {"first", "second"}
    assert {layer["op"] for layer in layers if layer["name"] == "first"} == {"Conv"}
    assert json.loads(json.dumps(layers)) == layers


def test_auto_excludes_until_the_goal_is_met() -> None:
    before = apply(Quantize(), filled(CONVS)).details
    goal = min(before["sqnr_db"].values()) + 2
    applied = apply(Quantize(exclude="auto", sqnr_goal=goal), filled(CONVS))
    assert applied.details["excluded"]
    assert min(value for value in applied.details["sqnr_db"].values() if value is not None) >= goal - 0.01


def test_auto_excludes_nothing_where_the_goal_is_met() -> None:
    applied = apply(Quantize(exclude="auto", sqnr_goal=10.0), filled(CONVS))
    assert applied.details["excluded"] == []


# --- when it does not fire ----------------------------------------------------------------------------------------


def test_leaves_a_quantized_model_alone() -> None:
    assert_untouched(
        Quantize(),
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 2] x) => (float[1, 2] y) <float s = {1}, uint8 z = {0}> {
            q = QuantizeLinear (x, s, z)
            y = DequantizeLinear (q, s, z)
        }""",
        "quantized already",
    )


def test_leaves_a_model_without_layers_alone_even_without_samples() -> None:
    assert_untouched(
        Quantize(),
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 2] x) => (float[1, 2] y) {
            y = Relu (x)
        }""",
        "no Conv, ConvTranspose, Gemm or MatMul",
    )


def test_leaves_a_model_alone_whose_layers_stand_in_functions() -> None:
    assert_untouched(
        Quantize(),
        """
        <ir_version: 9, opset_import: ["": 17, "own": 1]>
        g (float[1, 2] x) => (float[1, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { a = MatMul (x, w)  y = own.F (a, w) }
        <domain: "own", opset_import: ["": 17, "own": 1]> F (p, w) => (q) { q = own.G (p, w) }
        <domain: "own", opset_import: ["": 17]> G (p, w) => (q) { q = MatMul (p, w) }""",
        "in which MatMul is out of sight; run the pass inline-functions first",
    )


def test_leaves_a_weight_alone_that_a_caller_may_override() -> None:
    assert_untouched(
        Quantize(),
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 2] x, float[2, 2] w) => (float[1, 2] y) <float[2, 2] w = {1, 2, 3, 4}> {
            y = MatMul (x, w)
        }""",
        "'w' is also an input, which a caller may override; put drop-initializer-inputs before it",
    )


def test_says_so_where_everything_is_excluded() -> None:
    model = filled(CONVS)
    applied = apply(Quantize(exclude=("*",)), model)
    assert (
        applied.model.fingerprint
        == apply_pass(Quantize(exclude=("*",)), applied.model, _around(model)).model.fingerprint
    )
    assert not is_quantized(applied.model.proto)
    assert [skip.reason for skip in applied.skips] == ["all of it that could be quantized is excluded"]
    assert applied.details == {}


def _around(model: Model) -> PassContext:
    return PassContext(samples(model))


def test_leaves_layers_in_a_body_alone() -> None:
    assert_untouched(
        Quantize(),
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[1, 2] x) => (float[1, 2] y) <float[2, 2] w = {1, 2, 3, 4}> {
            y = If (c) <
                then_branch = t () => (float[1, 2] a) { a = MatMul (x, w) },
                else_branch = e () => (float[1, 2] b) { b = Neg (x) }
            >
        }""",
        "no Conv, ConvTranspose, Gemm or MatMul",
    )


# --- what it refuses ----------------------------------------------------------------------------------------------


def test_without_samples_it_says_what_to_do() -> None:
    with pytest.raises(PassError, match=r"pass 'quantize': there are no captured samples .* run it in apply"):
        apply(Quantize(), filled(CONVS), [])


def test_a_sample_that_does_not_fit_is_named() -> None:
    model = filled(CONVS)
    with pytest.raises(CaptureError, match="sample 9: 'x'"):
        apply(Quantize(), model, [*samples(model), Captured("9", {"x": np.zeros((1, 3, 9, 9), np.float32)})])


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    with pytest.raises(PassError, match=r"no node is called like 'thrid'; there are first, second"):
        apply(Quantize(exclude=("first", "thrid")), filled(CONVS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorrt"}, "backend must be one of onnxruntime, quark, vai_q_onnx"),
        ({"samples": 0}, "samples must be 1 or more"),
        ({"seconds": 0}, "seconds must be above 0"),
        ({"exclude": "auto"}, "needs sqnr_goal"),
        ({"sqnr_goal": 30.0}, "is for exclude: auto"),
        ({"exclude": "auto", "sqnr_goal": 0.0}, "above 0"),
        ({"exclude": "auto", "sqnr_goal": float("nan")}, "above 0"),
        ({"method": "min_mse"}, "method"),
        ({"style": "systolic", "backend": "quark"}, "style: backend 'onnxruntime' has systolic"),
        ({"style": "systolic", "format": "qdq"}, "format: style systolic has qoperator, not qdq"),
        ({"style": "systolic", "activations": "uint8"}, "activations: style systolic has int8, not uint8"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Quantize(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ("{exclude: auto, sqnr_goal: 30}", Quantize(exclude="auto", sqnr_goal=30.0)),
        ("{exclude: [head/*, stem], weights: int8}", Quantize(exclude=("head/*", "stem"), weights="int8")),
        ("{style: systolic, exclude_ops: [Add, Mul]}", Quantize(style="systolic", exclude_ops=("Add", "Mul"))),
        ("{config: qnn, activations: uint16}", Quantize(config="qnn", activations="uint16")),
    ],
)
def test_a_recipe_gives_the_options(tmp_path: Path, options: str, made: Quantize) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: shapes\npart_passes:\n  box_head: [{{quantize: {options}}}]\n", encoding="utf-8")
    assert load_recipe(str(path), registry=discover()).part_passes["box_head"][0].pass_ == made


def test_a_recipe_with_a_wrong_option_is_refused_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = "extends: shapes\npart_passes:\n  box_head:\n  - quantize:\n      samples: 3\n      exclude: stem\n"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"mine.yaml:6: "):
        load_recipe(str(path), registry=discover())
