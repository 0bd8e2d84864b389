"""The targets of the package: they load, they say what is known of the nodes of detectors, and their fixes help."""

from __future__ import annotations

import onnx
import pytest

from graphsurgery.devices.providers import PROVIDERS
from graphsurgery.graph.model import Model
from graphsurgery.rewrite.apply import apply_pass
from graphsurgery.targets.find import names
from graphsurgery.targets.load import load_target
from graphsurgery.targets.schema import Rule, Target, one_or_more, parse_fix
from targets.nodes import judged, model, registry, supported

EXPECTED = {
    "generic-cnn",
    "ryzen-ai",
    "qnn-htp",
    "tidl",
    "ethos-u55",
    "ethos-u65",
    "openvino-npu",
    "ascend",
    "axelera",
} | {
    *("ax650", "coreml", "tensorrt", "onnxruntime-riscv"),
    *("rk3588", "rk3562", "rk3566", "rk3568", "rk3576", "rv1103", "rv1106", "rv1103b", "rk2118"),
}
# they extend another, and may have no use for a source of it
SISTERS = {"rk3562", "rk3566", "rk3568", "rk3576", "rv1103", "rv1106", "rv1103b", "rk2118", "ethos-u65"}
_LOADED: dict[str, Target] = {}


GENERAL = ("tensors", "whole", "others")


def packaged(name: str) -> Target:
    if name not in _LOADED:
        _LOADED[name] = load_target(name, registry()).target
    return _LOADED[name]


def rules(found: Target) -> list[tuple[str, Rule]]:
    listed = [(op, rule) for op in found.operators for rule in found.rules(op)]
    general = [("tensors", rule) for rule in found.general]
    return [*general, ("whole", found.whole), ("others", found.other), *listed]


def test_all_are_there() -> None:
    assert set(names()) == EXPECTED


def test_a_provider_names_a_target_that_is_there() -> None:
    named = {provider.target for provider in PROVIDERS.values()} - {None}
    assert {"qnn-htp", "ryzen-ai"} <= named <= EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_target_of_the_package_loads(name: str) -> None:
    found = packaged(name)
    assert found.title
    used = {found.source, *(rule.source for _, rule in rules(found) if rule.source is not None)}
    assert used == set(found.sources) or name in SISTERS
    for op, rule in rules(found):
        domain, _, short = op.rpartition(".")
        assert domain or op in GENERAL or onnx.defs.has(short) or op.startswith("QLinear"), op
        # what the source is silent about says so
        silent = rule.outcome(None) == "unknown" and not rule.taken and op != "others"
        assert not silent or rule.note or name in ("ax650", "rv1103b"), (
            f"{op}: taken: false, else: unknown, and no note"
        )


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_limits_of_a_line_are_about_what_its_operator_has(name: str) -> None:
    """A limit that is ABSENT of every node of an operator would be kept by all of them."""
    windowed = {"kernel", "stride", "pad", "dilation", "groups", "span_height", "kernel_area", "depthwise"}
    of = {"step": {"Slice"}, "scale": {"Resize", "Upsample"}, "permutation": {"Transpose"}, "padded_axes": {"Pad"}}
    for op, rule in rules(packaged(name)):
        for limit in {*rule.limits, *rule.conditions}:
            if limit in windowed and op not in GENERAL:
                assert op in {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "DeformConv", "QLinearConv"}, (
                    op,
                    limit,
                )
            assert op in of.get(limit, {op}), (op, limit)


# --- what is known ------------------------------------------------------------------------------------------------

X4 = "float[1, 8, 16, 16] x"


def one(call: str, constants: str = "", inputs: str = X4, output: str = "float[a, b, c, d] y") -> str:
    return f"g ({inputs}) => ({output}) {f'<{constants}>' if constants else ''} {{ y = {call} }}"


def resize(how: str = "asymmetric", rounds: str = "floor", scales: str = "1, 1, 2, 2") -> str:
    attributes = f'coordinate_transformation_mode = "{how}", nearest_mode = "{rounds}", mode = "nearest"'
    return one(f"Resize <{attributes}> (x, , s)", f"float[4] s = {{{scales}}}")


def conv(kernel: int, attributes: str = "", channels: int = 8, group: int = 1) -> str:
    weight = f"float[8, {channels // group}, {kernel}, {kernel}] w"
    window = f"kernel_shape = [{kernel}, {kernel}], strides = [1, 1], pads = [0, 0, 0, 0], dilations = [1, 1]"
    written = f"group = {group}, {window}"
    return one(
        f"Conv <{attributes or written}> (x, w)",
        f"{weight} = {{{', '.join(['0.5'] * (8 * channels // group * kernel**2))}}}",
    )


def nms(boxes: int, rows: str = "9") -> str:
    return f"""g (float[1, {boxes}, 4] b, float[1, 1, {boxes}] s) => (int64[{rows}, 3] y)
        <int64 m = {{9}}, float i = {{0.5}}> {{ y = NonMaxSuppression (b, s, m, i) }}"""


TRANSPOSE = one(
    "ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (x, w)",
    f"float[8, 2, 2, 2] w = {{{', '.join(['0.5'] * 64)}}}",
)
ROI_ALIGN = one(
    'RoiAlign <output_height = 7, output_width = 7, spatial_scale = 0.25, mode = "avg"> (x, r, i)',
    inputs=f"{X4}, float[4, 4] r, int64[4] i",
)
ROI_ALIGN_2 = ROI_ALIGN.replace("RoiAlign <", "RoiAlign <sampling_ratio = 2, ")
NMS = """g (float[1, 20, 4] b, float[1, 1, 20] s) => (int64[{}, 3] y) <int64 k = {{5}}, float i = {{0.5}}> {{
    y = NonMaxSuppression (b, s, k, i) }}"""
TOPK = """g (float[1, 100] x) => (float[1, k] y) <int64[1] k = {{{}}}> {{ y, i = TopK <{}> (x, k) }}"""
STEP_2 = """g (float[1, 8, 16, 16] x) => (float[1, 8, 8, 8] y) <int64[2] s = {0, 0}, int64[2] e = {16, 16},
    int64[2] a = {2, 3}, int64[2] t = {2, 2}> { y = Slice (x, s, e, a, t) }"""
IF = """g (bool c, float[2] x) => (float[2] y) { y = If (c) <
    then_branch = a () => (float[2] p) { p = Neg (x) }, else_branch = b () => (float[2] q) { q = Abs (x) }> }"""
INTEGERS = "g (int32[1, 8, 16, 16] x) => (int32[1, 8, 16, 16] y) { y = Add (x, x) }"
INNER_INTEGERS = """g (float[1, 8, 16, 16] x) => (int32[1, 8, 16, 16] y) {
    a = Cast <to = 6> (x) y = Add (a, a) }"""
UNIT_POOL = one("MaxPool <kernel_shape = [1, 1], strides = [2, 2]> (x)")

KNOWN = [
    ("qnn-htp", ROI_ALIGN, "taken"),
    ("rk3588", ROI_ALIGN, "cpu"),
    ("ryzen-ai", ROI_ALIGN, "cpu"),
    ("tidl", ROI_ALIGN, "cpu"),
    ("ethos-u55", ROI_ALIGN, "cpu"),
    ("axelera", ROI_ALIGN, "cpu"),
    ("coreml", ROI_ALIGN, "cpu"),
    ("openvino-npu", ROI_ALIGN, "unknown"),
    ("ascend", ROI_ALIGN, "taken"),
    ("tensorrt", ROI_ALIGN, "taken"),
    ("ax650", ROI_ALIGN, "unknown"),  # sampling_ratio 0
    ("ax650", ROI_ALIGN_2, "taken"),
    ("generic-cnn", ROI_ALIGN, "cpu"),
    ("ryzen-ai:xint8", TRANSPOSE, "cpu"),
    ("ryzen-ai:a8w8", TRANSPOSE, "taken"),
    ("qnn-htp", TRANSPOSE, "taken"),
    ("rk3588", TRANSPOSE, "taken"),
    ("tidl", TRANSPOSE, "taken"),
    ("ethos-u55", TRANSPOSE, "taken"),
    ("openvino-npu", TRANSPOSE, "unknown"),
    ("rk3588", STEP_2, "cpu"),
    ("tidl", STEP_2, "cpu"),
    ("qnn-htp", STEP_2, "taken"),
    ("ethos-u55", STEP_2, "taken"),  # along height and width
    ("axelera", STEP_2, "cpu"),
    ("rk2118", STEP_2, "refused"),
    ("qnn-htp", resize(), "taken"),
    ("qnn-htp", resize("half_pixel", "round_prefer_floor"), "taken"),
    ("qnn-htp", resize("half_pixel", "round_prefer_ceil"), "taken"),
    ("qnn-htp", resize("asymmetric", "round_prefer_floor"), "cpu"),
    ("qnn-htp", resize("asymmetric", "ceil"), "cpu"),
    ("qnn-htp", resize("align_corners"), "wrong"),
    ("qnn-htp", resize("align_corners", "round_prefer_ceil"), "taken"),
    ("qnn-htp", resize("asymmetric", "round_prefer_ceil"), "wrong"),
    ("qnn-htp", resize("half_pixel", "floor"), "wrong"),
    ("qnn-htp", resize("half_pixel", "round_prefer_floor", "1, 1, 1.5, 1.5"), "wrong"),
    ("qnn-htp", resize("half_pixel", "round_prefer_ceil", "1, 1, 1.5, 1.5"), "taken"),
    ("qnn-htp", resize("tf_half_pixel_for_nn"), "taken"),
    ("rk3588", resize(), "taken"),
    ("rk3576", resize(), "cpu"),
    ("rk3588", resize("half_pixel", "round_prefer_floor"), "taken"),
    ("rk3588", resize("half_pixel", scales="1, 1, 9, 9"), "taken"),
    ("rk3576", resize("half_pixel", scales="1, 1, 9, 9"), "cpu"),
    ("ascend", resize(), "refused"),
    ("ascend", resize("half_pixel", "round_prefer_ceil"), "taken"),
    ("tidl", resize(scales="1, 1, 2, 4"), "cpu"),
    ("tidl", resize(scales="1, 1, 3, 3"), "cpu"),
    ("tidl", resize(), "taken"),
    ("coreml", resize(), "taken"),
    ("coreml", resize("half_pixel", "round_prefer_ceil"), "cpu"),
    ("axelera", resize(), "taken"),
    ("ethos-u55", resize(scales="1, 1, 3, 3"), "cpu"),
    ("ethos-u55", resize(scales="1, 1, 8, 8"), "taken"),
    ("openvino-npu", resize(), "taken"),
    ("qnn-htp", NMS.format(5), "taken"),
    ("qnn-htp", NMS.format("n"), "cpu"),
    ("rk3588", NMS.format(5), "refused"),
    ("ascend", NMS.format(5), "taken"),
    ("ryzen-ai", NMS.format(5), "cpu"),
    ("qnn-htp", TOPK.format(10, "largest = 1"), "taken"),
    ("qnn-htp", TOPK.format(10, "largest = 0"), "taken"),
    ("qnn-htp:int8", TOPK.format(10, "largest = 0"), "taken"),
    ("tensorrt", TOPK.format(10, "sorted = 1"), "taken"),
    ("tensorrt", TOPK.format(3840, "sorted = 1").replace("100]", "5000]"), "refused"),
    ("rk3588", TOPK.format(10, "sorted = 1"), "cpu"),
    ("rv1103", TOPK.format(10, "sorted = 1"), "refused"),
    ("ryzen-ai:a8w8", TOPK.format(10, "sorted = 1"), "cpu"),
    ("ryzen-ai:xint8", TOPK.format(10, "sorted = 1"), "taken"),
    ("ryzen-ai", IF, "crash"),
    ("rk3588", IF, "refused"),
    ("qnn-htp", IF, "taken"),
    ("tensorrt", IF, "taken"),
    ("ryzen-ai", conv(3), "taken"),
    ("ryzen-ai", conv(3, "strides = [1, 1]"), "crash"),
    ("ryzen-ai:bf16", one("Relu (x)"), "unknown"),
    ("rk3588", conv(9, group=8), "taken"),
    ("rk3576", conv(9, group=8), "cpu"),
    ("rk3588", conv(9), "taken"),
    ("tidl", conv(9, "strides = [2, 2]"), "cpu"),
    ("tidl", conv(3, "strides = [4, 4]"), "cpu"),
    ("tidl", conv(11, "strides = [4, 4]"), "taken"),
    ("tidl", conv(5, "strides = [3, 3], group = 8", group=8), "cpu"),
    ("ethos-u55", conv(3, "strides = [4, 4]"), "taken"),
    ("ethos-u55", conv(3, "strides = [6, 6]"), "unknown"),
    ("ascend", conv(3, group=2), "unknown"),
    ("axelera", conv(12, group=2), "cpu"),
    ("axelera", conv(12), "taken"),
    ("rk3588", UNIT_POOL, "taken"),
    ("rk2118", UNIT_POOL, "refused"),
    ("tidl", UNIT_POOL, "taken"),
    ("onnxruntime-riscv", UNIT_POOL, "cpu"),
    ("rk3588", one("Softmax <axis = 2> (x)"), "taken"),
    ("rk3588", INTEGERS, "crash"),
    ("rk3588", INNER_INTEGERS, "taken"),
    ("rk3588", one("Add (x, x)", inputs="double[1, 8, 16, 16] x"), "refused"),
    ("rk3588", one("Exp (x)", inputs="float[1, 8, h, 16] x"), "refused"),
    ("rk3588", "g (int32[1, 8, 16] x) => (int64[1, 8, 16] y) { y = Cast <to = 7> (x) }", "taken"),
    ("rk3588", one("Softmax <axis = 1> (x)"), "taken"),
    ("rk3566", one("Softmax <axis = 1> (x)"), "cpu"),
    ("rk3568", one("Softmax <axis = 1> (x)"), "cpu"),
    ("rk3576", one("GlobalAveragePool (x)", inputs="float[1, 8, 1, 7] x"), "cpu"),
    ("rk3588", one("GlobalAveragePool (x)", inputs="float[1, 8, 1, 7] x"), "taken"),
    ("tidl", one("GlobalAveragePool (x)", inputs="float[1, 8, 64, 64] x"), "cpu"),
    ("rk3588", one("Transpose <perm = [0, 2, 3, 1]> (x)"), "taken"),
    ("rk3588", one("Transpose <perm = [0, 2, 3, 1]> (x)", inputs="float[1, 8, 3, 3] x"), "taken"),
    ("rk3576", one("Transpose <perm = [0, 2, 3, 1]> (x)", inputs="float[1, 8, 3, 3] x"), "cpu"),
    ("rk3588:float16", one("Transpose <perm = [0, 2, 3, 1]> (x)", inputs="float[1, 4096, 1, 16] x"), "cpu"),
    ("rk3588:int8", one("Transpose <perm = [0, 2, 3, 1]> (x)", inputs="float[1, 4096, 1, 16] x"), "taken"),
    ("rk3588", one("Transpose <perm = [0, 2, 1, 3]> (x)"), "unknown"),
    ("qnn-htp", one("Max (x, x, x)"), "taken"),
    ("qnn-htp", one("HardSigmoid (x)", inputs="float[1, 8, 4, 4, 4] x"), "cpu"),
    ("qnn-htp", one("Mod <fmod = 1> (x, x)"), "cpu"),
    ("axelera", one("Clip (x, l, h)", "float l = {0}, float h = {6}"), "taken"),
    ("axelera", one("Clip (x, l, h)", "float l = {0}, float h = {5}"), "cpu"),
    ("axelera", one("Clip (x, l)", "float l = {0}"), "cpu"),
    ("tidl", one("Cast <to = 1> (x)"), "taken"),
    ("ethos-u55", one("HardSwish (x)"), "taken"),
    ("ethos-u55:int16", one("HardSwish (x)"), "cpu"),
    ("ethos-u55", one("Relu (x)", inputs="float[2, 8, 16, 16] x"), "cpu"),
    ("coreml", one("HardSwish (x)"), "cpu"),
    ("rk3588", one("Relu (x)", inputs="float[1, 8, h, 16] x"), "refused"),
    ("onnxruntime-riscv", one("Exp (x)"), "cpu"),
    ("qnn-htp", nms(64), "taken"),
    ("qnn-htp", nms(100), "refused"),
    ("qnn-htp", nms(400), "wrong"),
    ("qnn-htp", nms(448), "taken"),
    ("qnn-htp", nms(448, "n"), "cpu"),
]


@pytest.mark.parametrize(("where", "body", "outcome"), KNOWN)
def test_what_is_known_of_a_node(where: str, body: str, outcome: str) -> None:
    name, _, precision = where.partition(":")
    verdict = judged(body, packaged(name), precision or None)
    assert verdict.outcome == outcome, verdict.reason
    assert outcome == "taken" or verdict.reason


def test_attributes_left_out_crash_vitisai_by_name() -> None:
    verdict = judged(conv(3, "strides = [1, 1]"), packaged("ryzen-ai"))
    assert verdict.reason == "pads isn't written out"
    assert "onnxsim" in str(verdict.source)


# --- fixes --------------------------------------------------------------------------------------------------------

W24 = ", ".join(["0.5"] * 24)
HEAD = f"""g (float[1, 6, 2, 2] x) => (float[1, 1] y) <float[1, 24] w = {{{W24}}}> {{
    f = Flatten (x)\n y = Gemm <transB = 1> (f, w) }}"""
K8 = ", ".join(["1"] * 8)
ADD_EXPANDED = """g (float[1, 8, 1, 1] x, float[1, 8, 4, 4] z) => (float[1, 8, 4, 4] y) <int64[4] s = {1, 8, 4, 4}> {
    e = Expand (x, s)\n y = Add (e, z) }"""
PADDED = f"""g (float[1, 8, 4, 4] x) => (float[1, 1, 4, 4] y) <int64[8] p = {{0, 0, 1, 1, 0, 0, 1, 1}},
    float[1, 8, 3, 3] w = {{{", ".join([K8] * 9)}}}> {{ q = Pad (x, p)\n y = Conv (q, w) }}"""
RELU_POOL = """g (float[1, 8, 4, 4] x) => (float[1, 8, 2, 2] y) {
    r = Relu (x)\n y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (r) }"""
FIXES = [
    ("ryzen-ai:xint8", TRANSPOSE, "lower-convtranspose"),
    ("ryzen-ai", conv(3, "strides = [1, 1]"), "fill-default-attributes"),
    ("ryzen-ai:a16w8", resize(), "lower-nearest-resize"),
    (
        "ryzen-ai:xint8",
        "g (float[1, 8, 4, 4] x) => (float[1, 4, 4, 4] y, float[1, 4, 4, 4] z) { y, z = Split <axis = 1> (x) }",
        "lower-split",
    ),
    ("ryzen-ai:xint8", one("Gather <axis = 1> (x, i)", "int64[3] i = {4, 1, 2}"), "lower-gather most=16"),
    (
        "ryzen-ai:xint8",
        'g (float[2, 3] x, float[3, 4] z) => (float[2, 4] y) { y = Einsum <equation = "ij,jk->ik"> (x, z) }',
        "lower-einsum",
    ),
    ("ryzen-ai:a16w8", one("ReduceMean <axes = [2, 3]> (x)"), "lower-reduce-mean"),
    ("ryzen-ai:a8w8", one("Tile (x, r)", "int64[4] r = {1, 1, 2, 1}"), "lower-tile"),
    ("ryzen-ai:a8w8", one("Sum (x, x)"), "lower-sum"),
    ("ryzen-ai:xint8", one("SpaceToDepth <blocksize = 2> (x)"), "lower-spacetodepth"),
    ("rk3588", STEP_2, "lower-strided-slice"),
    ("tidl", STEP_2, "lower-strided-slice"),
    ("rk3576", resize(), "resize-mode to=half_pixel"),
    ("rk3576", resize(), "lower-nearest-resize"),
    ("rk3576", one("MaxPool <kernel_shape = [13, 13], pads = [6, 6, 6, 6]> (x)"), "split-large-maxpool"),
    ("rk3576", one("GlobalAveragePool (x)"), "split-large-pool largest=7"),
    ("rk3588", one('Einsum <equation = "bchw,bcwk->bchk"> (x, x)'), "lower-einsum"),
    ("rk2118", UNIT_POOL, "replace-unit-maxpool"),
    ("onnxruntime-riscv", UNIT_POOL, "replace-unit-maxpool"),
    ("rk2118", one("Gather <axis = 1> (x, i)", "int64[2] i = {1, 2}"), "lower-gather most=16"),
    ("rk3588", HEAD, "lower-gemm-to-conv"),
    ("ascend", resize(), "resize-mode to=half_pixel rounding=round_prefer_ceil"),
    ("ascend", resize(), "lower-nearest-resize"),
    ("ascend", conv(3, group=2), "split-grouped-conv"),
    (
        "ascend",
        one("MaxPool <kernel_shape = [64, 64], strides = [64, 64]> (x)", inputs="float[1, 8, 64, 64] x"),
        "split-large-pool largest=16",
    ),
    ("ax650", resize(), "resize-mode to=half_pixel rounding=round_prefer_ceil"),
    ("ax650", conv(3, 'auto_pad = "SAME_UPPER"'), "fill-default-attributes"),
    ("ax650", one('DepthToSpace <blocksize = 2, mode = "CRD"> (x)'), "lower-depthtospace"),
    ("qnn-htp", resize("asymmetric", "round_prefer_floor"), "resize-mode"),
    ("qnn-htp", resize("asymmetric", "round_prefer_floor"), "lower-nearest-resize"),
    (
        "qnn-htp",
        f"g (float[2, 3] x) => (float[2, 8] y) <float[3, 8] w = {{{W24}}}> {{ y = Gemm <alpha = 2.0> (x, w) }}",
        "lower-gemm",
    ),
    ("coreml", resize("half_pixel", "round_prefer_ceil"), "resize-mode"),
    ("coreml", one("HardSwish (x)"), "lower-hardswish"),
    ("coreml", one("Sum (x, x)"), "lower-sum"),
    ("tidl", one("MaxPool <kernel_shape = [5, 5], pads = [2, 2, 2, 2]> (x)"), "split-large-maxpool"),
    ("tidl", one("GlobalAveragePool (x)", inputs="float[1, 8, 64, 64] x"), "split-large-pool largest=2"),
    ("tidl", one("Softmax <axis = 1> (x)"), "move-softmax-axis"),
    ("tidl", resize("half_pixel", "round_prefer_floor"), "resize-mode"),
    ("ethos-u55", one("Sum (x, x)"), "lower-sum"),
    ("ethos-u55", one("Softmax <axis = 1> (x)"), "move-softmax-axis"),
    ("ethos-u55", one("Gather <axis = 1> (x, i)", "int64[2] i = {1, 2}"), "lower-gather most=16"),
    ("ethos-u55", conv(3, group=2), "split-grouped-conv"),
    ("ethos-u55", RELU_POOL, "split-maxpool-pads"),
    ("ethos-u55", one("Tile (x, r)", "int64[4] r = {1, 1, 2, 1}"), "lower-tile"),
    ("axelera", conv(3, 'auto_pad = "SAME_UPPER"'), "fill-default-attributes"),
    ("axelera", conv(12, group=2), "split-grouped-conv"),
    ("axelera", one("Clip (x, l)", "float l = {0}"), "lower-clip"),
    (
        "axelera",
        one(
            "Slice (x, s, e, a)",
            "int64[2] s = {1, 2}, int64[2] e = {9, 9}, int64[2] a = {2, 3}",
            "float[1, 64, 16, 16] x",
        ),
        "split-multi-axis-slice",
    ),
    (
        "tensorrt",
        """g (float[1, 5000] x) => (float[1, 9] y) <int64[1] k = {5000}, int64[1] s = {0}, int64[1] e = {9},
        int64[1] a = {1}> { v, i = TopK (x, k)\n y = Slice (v, s, e, a) }""",
        "lower-sorted-slice",
    ),
    (
        "onnxruntime-riscv",
        f"g (float[2, 3] x) => (float[2, 8] y) <float[3, 8] w = {{{W24}}}> {{ y = Gemm (x, w) }}",
        "lower-gemm",
    ),
    ("ethos-u55", ADD_EXPANDED, "lower-expand"),
    ("coreml", ADD_EXPANDED, "lower-expand"),
    ("coreml", one("Expand (x, s)", "int64[4] s = {2, 8, 16, 16}"), "lower-expand"),
    ("ethos-u55", one("BatchNormalization (x, k, k, k, k)", f"float[8] k = {{{K8}}}"), "lower-batchnorm"),
    ("ryzen-ai:xint8", one("HardSigmoid (x)"), "lower-hardsigmoid"),
    ("ethos-u55", one("HardSigmoid (x)"), "lower-hardsigmoid"),
    ("rk3588", one("HardSigmoid (x)"), "lower-hardsigmoid"),
    ("ryzen-ai:bf16", one("LayerNormalization (x, k)", f"float[16] k = {{{K8}, {K8}}}"), "lower-layernorm"),
    ("ryzen-ai:a8w8", one("LayerNormalization (x, k)", f"float[16] k = {{{K8}, {K8}}}"), "lower-layernorm"),
    ("qnn-htp", one("LayerNormalization <axis = 1> (x, k)", "float k = {1}"), "lower-layernorm"),
    ("coreml", PADDED, "merge-pads"),
    ("rk3576", one("ReduceMean <axes = [2, 3]> (x)", inputs="float[1, 8, 7, 7] x"), "lower-reduce-mean"),
    ("ethos-u55", one('Resize <mode = "linear"> (x, , s)', "float[4] s = {1, 1, 4, 4}"), "replace-linear-resize"),
    ("ryzen-ai:a8w8", one("Where (c, x, x)", "bool c = {1}"), "lower-where"),
    (
        "qnn-htp",
        f"g (float[2] x) => (float[2] y) <bool c = {{1}}> {{ y = {IF.partition('y = ')[2]}".replace("Abs", "Softsign"),
        "inline-if",
    ),
    (
        "axelera",
        "g (float[1, 8, 4, 4] x, float[1, 8, 4, 4] z) => (float[1, 8, 4, 4] y) { y = Sub (x, z) }",
        "lower-sub",
    ),
    (
        "axelera",
        one("AveragePool <kernel_shape = [3, 3], pads = [0, 1, 1, 1], count_include_pad = 1> (x)"),
        "split-large-pad symmetric=true",
    ),
    ("axelera", one("Mean (x, x)"), "lower-mean"),
    ("coreml", one("Mean (x, x)"), "lower-mean"),
    ("coreml", one("Neg (x)"), "lower-neg"),
    ("coreml", one("Pad (x, p)", "int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}"), "lower-pad constant=true"),
    ("coreml", one("Gather <axis = 1> (x, i)", "int64[2] i = {5, 1}"), "lower-gather most=16"),
    ("axelera", one("Gather <axis = 1> (x, i)", "int64[2] i = {5, 1}"), "lower-gather most=16"),
    ("ethos-u55:int16", one("ReduceSum <keepdims = 1> (x, a)", "int64[1] a = {1}"), "lower-reduce-sum"),
    ("ryzen-ai:bf16", one("Clip (x, l, h)", "float l = {0}, float h = {6}"), "lower-clip max_min=true"),
    ("ryzen-ai:a16w8", one("ReduceSum <keepdims = 1> (x, a)", "int64[1] a = {-1}"), "lower-reduce-sum"),
    ("ryzen-ai:a8w8", one("Neg (x)"), "lower-neg"),
    ("ethos-u55", conv(8, "strides = [8, 8]"), "split-conv-stride conv=3 pool=3"),
    ("ethos-u55", one("Relu (x)", inputs="float[2, 8, 16, 16] x"), "split-batch"),
    ("ethos-u55", one('Pad <mode = "edge"> (x, p)', "int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}"), "lower-pad"),
    ("ax650", one('Pad <mode = "reflect"> (x, p)', "int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}"), "lower-pad"),
    ("tidl", one('Pad <mode = "reflect"> (x, p)', "int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}"), "lower-pad"),
    ("tidl", conv(7, "strides = [4, 4], pads = [3, 3, 3, 3]"), "split-conv-stride conv=2"),
    ("tidl", conv(9, "strides = [2, 2], pads = [4, 4, 4, 4]"), "split-conv-stride conv=1"),
    ("tidl", conv(2, group=8), "widen-even-conv"),
    ("tidl", one("Concat <axis = 0> (x, x)"), "move-concat-axis"),
    (
        "tidl",
        "g (float[1, 8, 4, 16] x) => (float[1, 8, 4, 9] y) <int64[1] k = {9}> { y, i = TopK (x, k) }",
        "move-topk-axis",
    ),
    ("rk3576", conv(16, "strides = [16, 16]"), "split-conv-stride conv=7 pool=8"),
    ("rk3576", conv(3, "pads = [18, 18, 18, 18], dilations = [18, 18]"), "drop-unread-taps"),
    ("rk3576", conv(3, "pads = [18, 18, 18, 18], dilations = [8, 8]"), "split-large-pad"),
    ("qnn-htp", one('Pad <mode = "wrap"> (x, p)', "int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}"), "lower-pad"),
]


# the pass brings what nothing was read of: a Reshape, a Slice, a Transpose
NOT_KNOWN = {
    ("rk3588", "lower-strided-slice"),
    ("rk3588", "move-softmax-axis"),
    ("rk3588", "lower-einsum"),
    ("rk3588", "lower-hardsigmoid"),
    ("rk3588", "lower-neg"),
} | {
    *(("ascend", "split-grouped-conv"), ("ethos-u55", "move-softmax-axis")),
}


@pytest.mark.parametrize(("where", "body", "fix"), FIXES)
def test_a_fix_makes_the_node_fit(where: str, body: str, fix: str) -> None:
    name, _, precision = where.partition(":")
    before = supported(model(body), packaged(name), precision or None)
    assert before.left, "taken without the fix"
    assert all(fix in node.verdict.fixes for node in before.left), before.left
    pass_, options = parse_fix(fix)
    after = apply_pass(registry().get(pass_)(**options), Model(model(body)))
    left = supported(after.model.proto, packaged(name), precision or None).left
    if (name, pass_) in NOT_KNOWN:
        left = [node for node in left if node.verdict.outcome != "unknown" or node.op == before.left[0].op]
    assert [(node.op, node.verdict.reason) for node in left] == [], after.skips


def test_every_fix_looks_at_the_operator_that_it_is_for() -> None:
    """A pass that has no eye for an operator can't help it."""
    eyeless = []
    for name in sorted(EXPECTED):
        for op, rule in rules(packaged(name)):
            written = rule.fix.values() if hasattr(rule.fix, "values") else [rule.fix]
            for fix in {fix for names_ in written for fix in one_or_more(names_)}:
                looks_at = getattr(registry().get(parse_fix(fix)[0]), "matches", ())
                # lower-gemm-to-conv takes the Reshape away in front of the Gemm that it looks at
                seen = op in looks_at or (op in ("Flatten", "Reshape") and "Gemm" in looks_at)
                if looks_at and op not in GENERAL and not seen:
                    eyeless.append((name, op, fix))
    assert eyeless == []


def test_a_file_for_others_to_extend_is_no_target() -> None:
    assert not [name for name in names() if "rockchip" in name]


def test_what_was_measured_of_rk3588_alone_is_not_said_of_its_sisters() -> None:
    named = {name: packaged(name) for name in ("rk3588", "rk3576", "rk2118")}
    assert [name for name, target in named.items() if "probed" in target.sources] == ["rk3588"]
