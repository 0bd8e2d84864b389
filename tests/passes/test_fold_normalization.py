from typing import Any

import numpy as np
import pytest
from drawn_layers import any_window

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.fold_normalization import FoldNormalization
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

# one filter that adds three channels, weighted; the mean is subtracted, the result divided
W = "float[1, 3, 1, 1] w = {1, 2, 4}"
WIDE = "float[1, 3, 1, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}"
MEAN = "float[3, 1, 1] m = {10, 20, 30}"
STD = "float[3, 1, 1] d = {2, 4, 8}"


def text(weights: str, nodes: str, x: str = "float[1, 3, 4, 4]", opset: int = 17, more: str = "") -> str:
    head = f'<ir_version: 8, opset_import: ["": {opset}]>'
    return f"{head} g ({x} x{more}) => (float[1, 1, 4, 4] y) <{weights}> {{ {nodes} }}"


@pytest.mark.parametrize("opset", [7, 11, 13, 22])
def test_folds_the_whole_chain_into_a_conv_that_does_not_pad(opset: int) -> None:
    assert_rewrites(
        FoldNormalization(),
        text(
            f"{W}, float[1] b = {{7}}, {MEAN}, {STD}", "s = Sub (x, m) n = Div (s, d) y = Conv (n, w, b)", opset=opset
        ),
        text(
            "float[1, 3, 1, 1] w_folded = {0.5, 0.5, 0.5}, float[1] w_bias = {-23}",
            "y = Conv (x, w_folded, w_bias)",
            opset=opset,
        ),
    )


def test_folds_factors_and_summands_as_well_and_a_constant_that_is_subtracted_from() -> None:
    assert_rewrites(
        FoldNormalization(),
        text(f"{W}, {MEAN}, {STD}", "p = Mul (d, x) s = Sub (m, p) y = Conv (s, w)"),
        text("float[1, 3, 1, 1] w_folded = {-2, -8, -32}, float[1] w_bias = {170}", "y = Conv (x, w_folded, w_bias)"),
    )


@pytest.mark.parametrize("indices", ["2, 1, 0", "-1, 1, -3"])
def test_swaps_the_colours_in_the_weights(indices: str) -> None:
    assert_rewrites(
        FoldNormalization(),
        text(
            f"{WIDE}, int64[3] i = {{{indices}}}", "n = Gather <axis = 1> (x, i) y = Conv <pads = [0, 1, 0, 1]> (n, w)"
        ),
        text(
            "float[1, 3, 1, 3] w_folded = {7, 8, 9, 4, 5, 6, 1, 2, 3}", "y = Conv <pads = [0, 1, 0, 1]> (x, w_folded)"
        ),
    )


@pytest.mark.parametrize(
    ("constants", "nodes"),
    [
        (f"{MEAN}, {STD}", "g = Gather <axis = -3> (x, i) s = Sub (g, m) n = Div (s, d)"),
        # channel 2 of the image is what the Conv reads first, 0 second, 1 third
        (
            "float[3, 1, 1] m = {20, 30, 10}, float[3, 1, 1] d = {4, 8, 2}",
            "s = Sub (x, m) t = Div (s, d) n = Gather <axis = 1> (t, i)",
        ),
    ],
)
def test_a_swap_may_stand_before_or_behind_the_scale(constants: str, nodes: str) -> None:
    assert_rewrites(
        FoldNormalization(),
        text(f"{W}, {constants}, int64[3] i = {{2, 0, 1}}", f"{nodes} y = Conv (n, w)"),
        text("float[1, 3, 1, 1] w_folded = {0.5, 0.5, 0.5}, float[1] w_bias = {-30}", "y = Conv (x, w_folded, w_bias)"),
    )


def test_every_channel_finds_its_own_weights_after_a_swap_of_three() -> None:
    assert_rewrites(
        FoldNormalization(),
        text(f"{W}, int64[3] i = {{2, 0, 1}}", "n = Gather <axis = 1> (x, i) y = Conv (n, w)"),
        text("float[1, 3, 1, 1] w_folded = {2, 4, 1}", "y = Conv (x, w_folded)"),
    )


def test_two_swaps_one_after_the_other_are_one() -> None:
    # the first channel that the Conv reads is channel i[j[0]] = 0 of the image, the second i[j[1]] = 2
    assert_rewrites(
        FoldNormalization(),
        text(
            f"{W}, int64[3] i = {{2, 0, 1}}, int64[3] j = {{1, 0, 2}}",
            "g = Gather <axis = 1> (x, i) n = Gather <axis = 1> (g, j) y = Conv (n, w)",
        ),
        text("float[1, 3, 1, 1] w_folded = {1, 4, 2}", "y = Conv (x, w_folded)"),
    )


def test_the_mean_of_a_channel_goes_with_it() -> None:
    # 1 x (x2 - 30) + 2 x (x0 - 10) + 4 x (x1 - 20)
    assert_rewrites(
        FoldNormalization(),
        text(f"{W}, {MEAN}, int64[3] i = {{2, 0, 1}}", "s = Sub (x, m) n = Gather <axis = 1> (s, i) y = Conv (n, w)"),
        text("float[1, 3, 1, 1] w_folded = {2, 4, 1}, float[1] w_bias = {-130}", "y = Conv (x, w_folded, w_bias)"),
    )


@pytest.mark.parametrize("opset", [7, 10, 11, 18])
@pytest.mark.parametrize("attributes", ["pads = [0, 1, 0, 1]", 'auto_pad = "SAME_UPPER"'])
def test_where_all_means_are_equal_the_mean_is_padded(opset: int, attributes: str) -> None:
    pads = "[0, 0, 0, 1, 0, 0, 0, 1]"
    weights = "float[1, 3, 1, 3] w_folded = {0.5, 1, 1.5, 1, 1.25, 1.5, 0.875, 1, 1.125}, float[1] w_bias = {-97.5}"
    if opset < 11:
        pad = f'x_padded = Pad <mode = "constant", pads = {pads}, value = 10.0> (x)'
    else:
        weights += f", int64[8] x_padded_pads = {{{pads[1:-1]}}}, float x_padded_value = {{10}}"
        pad = 'x_padded = Pad <mode = "constant"> (x, x_padded_pads, x_padded_value)'
    assert_rewrites(
        FoldNormalization(),
        text(
            f"{WIDE}, float m = {{10}}, {STD}",
            f"s = Sub (x, m) n = Div (s, d) y = Conv <{attributes}> (n, w)",
            opset=opset,
        ),
        text(weights, f"{pad} y = Conv <pads = [0, 0, 0, 0]> (x_padded, w_folded, w_bias)", opset=opset),
    )


def test_means_that_are_equal_but_for_rounding_count_as_equal() -> None:
    std = np.float32([0.229, 0.224, 0.225])
    scale, shift = (", ".join(map(repr, map(float, values))) for values in (1 / std, np.float32(-0.5) / std))
    model = Model(
        parse(
            text(
                f"{WIDE}, float[3, 1, 1] s = {{{scale}}}, float[3, 1, 1] t = {{{shift}}}",
                "p = Mul (x, s) n = Add (p, t) y = Conv <pads = [0, 1, 0, 1]> (n, w)",
            )
        )
    )
    after = apply_pass(FoldNormalization(), model).model.proto
    assert [node.op_type for node in after.graph.node] == ["Pad", "Conv"]
    x = np.random.default_rng(0).random((1, 3, 4, 4), np.float32)
    expected, got = (session.run(each, {"x": x})["y"] for each in (model.proto, after))
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_a_scale_behind_means_that_differ_folds_into_a_conv_that_pads() -> None:
    after = text(
        f"float[1, 3, 1, 3] w_folded = {{0.5, 1, 1.5, 1, 1.25, 1.5, 0.875, 1, 1.125}}, {MEAN}",
        "s = Sub (x, m) y = Conv <pads = [0, 1, 0, 1]> (s, w_folded)",
    )
    before = text(f"{WIDE}, {MEAN}, {STD}", "s = Sub (x, m) n = Div (s, d) y = Conv <pads = [0, 1, 0, 1]> (n, w)")
    assert_rewrites(FoldNormalization(), before, after)
    assert_untouched(FoldNormalization(), after, "no one value that a Pad could fill in")


def test_a_grouped_conv_takes_the_scale_of_each_channel() -> None:
    assert_rewrites(
        FoldNormalization(),
        text(
            f"float[3, 1, 1, 1] w = {{1, 2, 4}}, {MEAN}, {STD}",
            "s = Sub (x, m) n = Div (s, d) c = Conv <group = 3> (n, w) y = ReduceMax <axes = [1]> (c)",
        ),
        text(
            "float[3, 1, 1, 1] w_folded = {0.5, 0.5, 0.5}, float[3] w_bias = {-5, -10, -15}",
            "c = Conv <group = 3> (x, w_folded, w_bias) y = ReduceMax <axes = [1]> (c)",
        ),
    )


def test_works_inside_an_if_body_and_keeps_the_weights_for_others() -> None:
    def body(weights: str, nodes: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool t, float[1, 3, 4, 4] x) => (float[1, 1, 4, 4] y) <{W}> {{
            y = If (t) <
                then_branch = a () => (float[1, 1, 4, 4] p) <{weights}> {{ {nodes} }},
                else_branch = e () => (float[1, 1, 4, 4] q) {{ q = Conv (x, w) }}
            >
        }}"""

    assert_rewrites(
        FoldNormalization(),
        body(STD, "n = Div (x, d) p = Conv (n, w)"),
        body("float[1, 3, 1, 1] w_folded = {0.5, 0.5, 0.5}", "p = Conv (x, w_folded)"),
    )


SUB = f"{W}, {MEAN}"


@pytest.mark.parametrize(
    ("weights", "nodes", "reason"),
    [
        (f"{W}, float[4] m = {{1, 2, 3, 4}}", "n = Sub (x, m) y = Conv (n, w)", "the constant of the Sub before"),
        (f"{W}, float[3, 1, 1] d = {{0, 1, 2}}", "n = Div (x, d) y = Conv (n, w)", "not one finite value per channel"),
        (f"{WIDE}, {MEAN}", "n = Sub (x, m) y = Conv <pads = [0, 1, 0, 1]> (n, w)", "no one value that a Pad"),
        (f"{W}, int64[3] i = {{2, 1, 1}}", "n = Gather <axis = 1> (x, i) y = Conv (n, w)", "leaves out channels"),
        (f"{W}, int64[4] i = {{3, 2, 1, 0}}", "n = Gather <axis = 2> (x, i) y = Conv (n, w)", "does not reorder"),
        (f"{W.replace('[1, 3', '[3, 1')}, int64[3] i = {{2, 1, 0}}",
         "n = Gather <axis = 1> (x, i) c = Conv <group = 3> (n, w) y = ReduceMax <axes = [1]> (c)", "has groups"),
        (SUB, "n = Sub (x, m) c = Conv (n, w) r = ReduceMax <axes = [1]> (n) y = Add (r, c)", "is read elsewhere too"),
        (f"{MEAN}, int64[4] s = {{1, 3, 4, 4}}", "w = Reshape (x, s) n = Sub (x, m) y = Conv (n, w)", "weights of the"),
        (f"{SUB}, float[1] b = {{2}}", "c = Relu (b) n = Sub (x, m) y = Conv (n, w, c)", "bias of the Conv is not"),
        ("float[1, 3, 1, 1] w = {10, 1, 1}, float s = {3e38}", "n = Mul (x, s) y = Conv (n, w)", "leave the range"),
    ],
)  # fmt: skip
def test_leaves_alone(weights: str, nodes: str, reason: str) -> None:
    assert_untouched(FoldNormalization(), text(weights, nodes), reason)


@pytest.mark.parametrize("x", ["float[1, 1, 4, 4]", "float[1, C, 4, 4]", "float[4, 4]", "float[]"])
def test_leaves_a_mean_alone_that_may_be_what_makes_three_channels(x: str) -> None:
    assert_untouched(FoldNormalization(), text(SUB, "n = Sub (x, m) y = Conv (n, w)", x), "has 3 channels already")


def test_leaves_a_scalar_alone_that_gives_the_tensor_its_batch_dimension() -> None:
    before = text(
        "float[1, 1, 1, 1] w = {2}, float[1, 1, 1, 1] m = {3}", "n = Sub (x, m) y = Conv (n, w)", "float[4, 4]"
    )
    assert_untouched(FoldNormalization(), before, "has 1 channels already")


@pytest.mark.parametrize("scale", ["{0, 1, 1}", "{1, 0, 1}", "{1, 1, 0}"])
def test_a_channel_that_the_scale_wipes_out_has_no_mean(scale: str) -> None:
    before = text(
        f"{WIDE}, float[3, 1, 1] s = {scale}, float[3, 1, 1] t = {scale.replace('1', '-2', 1)}",
        "p = Mul (x, s) n = Add (p, t) y = Conv <pads = [0, 1, 0, 1]> (n, w)",
    )
    assert_untouched(FoldNormalization(), before, "no one value that a Pad")


def test_leaves_a_swap_alone_where_nothing_tells_how_many_channels_there_are() -> None:
    before = text(f"{W}, int64[3] i = {{2, 1, 0}}", "n = Gather <axis = 1> (x, i) y = Conv (n, w)", "float[1, C, 4, 4]")
    assert_untouched(FoldNormalization(), before, "leaves out channels")


def test_leaves_a_chain_alone_that_is_a_graph_output() -> None:
    before = text(SUB, "n = Sub (x, m) y = Conv (n, w)").replace(" y)", " y, float[1, 3, 4, 4] n)")
    assert_untouched(FoldNormalization(), before, "or is a graph output")


def test_leaves_a_conv_alone_whose_pads_depend_on_an_unknown_size() -> None:
    before = text(
        f"{WIDE}, float m = {{2}}", 'n = Sub (x, m) y = Conv <auto_pad = "SAME_LOWER"> (n, w)', "float[1, 3, 4, K]"
    )
    assert_untouched(FoldNormalization(), before, "the Conv pads with zeros")


def test_an_old_pad_can_not_hold_a_double() -> None:
    weights = WIDE.replace("float", "double") + ", double m = {0.1}"
    nodes = "n = Sub (x, m) y = Conv <pads = [0, 1, 0, 1]> (n, w)"
    before = text(weights, nodes, "double[1, 3, 4, 4]", 10).replace("float[1, 1, 4, 4] y", "double[1, 1, 4, 4] y")
    assert_untouched(FoldNormalization(), before, "no one value that a Pad")
    new = apply_pass(FoldNormalization(), Model(parse(before.replace(": 10]", ": 11]")))).model.proto
    assert [node.op_type for node in new.graph.node] == ["Pad", "Conv"]


@pytest.mark.parametrize("name", ["w", "b"])
def test_leaves_weights_that_may_be_overridden_alone(name: str) -> None:
    weights = {"w": W, "b": "float[1] b = {7}"}
    rest = weights["b" if name == "w" else "w"]
    before = text(f"{rest}, {STD}", "n = Div (x, d) y = Conv (n, w, b)", more=f", {weights[name]}")
    assert_untouched(FoldNormalization(), before, "of the Conv")


@pytest.mark.parametrize(
    "nodes", ["n = Add (x, x) y = Conv (n, w)", "n = Relu (x) y = Conv (n, w)", "n = Div (d, x) y = Conv (n, w)"]
)
def test_does_not_look_at_other_convs(nodes: str) -> None:
    assert_untouched(FoldNormalization(), text(f"{W}, {STD}", nodes), None)


def test_does_not_look_at_a_mean_that_may_be_overridden() -> None:
    assert_untouched(FoldNormalization(), text(W, "n = Sub (x, m) y = Conv (n, w)", more=f", {MEAN}"), None)


@pytest.mark.parametrize(
    ("batching", "more"),
    [("Unsqueeze (n, a)", "int64[1] a = {0}"), ("Reshape (n, a)", "int64[4] a = {1, 3, 4, 4}")],
)
def test_folds_through_what_gives_the_image_its_batch_axis(batching: str, more: str) -> None:
    image, weights = "float[3, 4, 4]", "float[1, 3, 1, 1] w_folded = {0.5, 0.5, 0.5}, float[1] w_bias = {-23}"
    before = f"s = Sub (x, m) n = Div (s, d) u = {batching} y = Conv (u, w, b)"
    after = f"x_batched = {batching.replace('(n', '(x')} y = Conv (x_batched, w_folded, w_bias)"
    assert_rewrites(
        FoldNormalization(),
        text(f"{W}, float[1] b = {{7}}, {MEAN}, {STD}, {more}", before, image),
        text(f"{weights}, {more}", after, image),
    )


def test_the_colours_of_an_image_without_batch_axis_are_swapped_too() -> None:
    x, weights = "float[3, 4, 4]", "int64[3] i = {2, 1, 0}, int64[1] a = {0}"
    assert_rewrites(
        FoldNormalization(),
        text(f"{WIDE}, {weights}", "n = Gather (x, i) u = Unsqueeze (n, a) y = Conv <pads = [0, 1, 0, 1]> (u, w)", x),
        text(
            "float[1, 3, 1, 3] w_folded = {7, 8, 9, 4, 5, 6, 1, 2, 3}, int64[1] a = {0}",
            "x_batched = Unsqueeze (x, a) y = Conv <pads = [0, 1, 0, 1]> (x_batched, w_folded)",
            x,
        ),
    )


@pytest.mark.parametrize("nodes", ["u = Unsqueeze (x, a)", "s = Relu (x) u = Unsqueeze (s, a)"])
def test_does_not_look_at_a_batch_axis_alone(nodes: str) -> None:
    given = text(f"{W}, int64[1] a = {{0}}", f"{nodes} y = Conv (u, w)", "float[3, 4, 4]")
    assert_untouched(FoldNormalization(), given, None)


def test_other_axes_than_that_of_the_batch_end_the_chain() -> None:
    nodes = "s = Sub (x, m) u = Reshape (s, a) y = Conv (u, w)"
    given = text(f"{W}, {MEAN}, int64[4] a = {{1, 3, 4, 4}}", nodes, "float[3, 2, 8]")
    assert_untouched(FoldNormalization(), given, None)


PADS = "<pads = [0, 1, 0, 1]>"
NORMALISED = "x_normalised = BatchNormalization <epsilon = 0.0> (x, x_scale, x_bias, x_mean, x_variance)"
PARAMETERS = (
    "float[3] x_scale = {0.5, 0.25, 0.125}, float[3] x_bias = {0, 0, 0}, float[3] x_mean = {10, 20, 30}, "
    "float[3] x_variance = {1, 1, 1}"
)


def test_means_that_differ_become_a_batchnorm_before_a_conv_that_pads() -> None:
    before = text(f"{WIDE}, {MEAN}, {STD}", f"s = Sub (x, m) n = Div (s, d) y = Conv {PADS} (n, w)")
    after = text(f"{WIDE}, {PARAMETERS}", f"{NORMALISED} y = Conv {PADS} (x_normalised, w)")
    assert_rewrites(FoldNormalization(as_batchnorm=True), before, after)


def test_the_batchnorm_stands_before_a_swap_of_colours() -> None:
    nodes = f"s = Sub (x, m) t = Div (s, d) n = Gather <axis = 1> (t, i) y = Conv {PADS} (n, w)"
    before = text(f"{WIDE}, {MEAN}, {STD}, int64[3] i = {{2, 1, 0}}", nodes)
    swapped = "float[1, 3, 1, 3] w_folded = {7, 8, 9, 4, 5, 6, 1, 2, 3}"
    after = text(f"{swapped}, {PARAMETERS}", f"{NORMALISED} y = Conv {PADS} (x_normalised, w_folded)")
    assert_rewrites(FoldNormalization(as_batchnorm=True), before, after)


def test_the_batchnorm_of_a_channel_that_the_scale_wipes_out_has_a_bias() -> None:
    before = text(
        f"{WIDE}, float[3, 1, 1] f = {{0, 1, 2}}, {MEAN}", f"s = Mul (x, f) n = Add (s, m) y = Conv {PADS} (n, w)"
    )
    parameters = (
        "float[3] x_scale = {0, 1, 2}, float[3] x_bias = {10, 20, 30}, float[3] x_mean = {0, 0, 0}, "
        "float[3] x_variance = {1, 1, 1}"
    )
    after = text(f"{WIDE}, {parameters}", f"{NORMALISED} y = Conv {PADS} (x_normalised, w)")
    assert_rewrites(FoldNormalization(as_batchnorm=True), before, after)


def test_what_the_weights_can_take_in_becomes_no_batchnorm() -> None:
    before = text(f"{W}, {MEAN}, {STD}", "s = Sub (x, m) n = Div (s, d) y = Conv (n, w)")
    weights = "float[1, 3, 1, 1] w_folded = {0.5, 0.5, 0.5}, float[1] w_bias = {-30}"
    after = text(weights, "y = Conv (x, w_folded, w_bias)")
    assert_rewrites(FoldNormalization(as_batchnorm=True), before, after)


@fuzz(FoldNormalization())
def test_any_chain_before_a_conv_computes_the_same(build: Builder) -> list[str]:
    return any_chain(build, build.dtype())


@fuzz(FoldNormalization(as_batchnorm=True))
def test_any_chain_computes_the_same_as_a_batchnorm(build: Builder) -> list[str]:
    return any_chain(build, build.dtype([np.float32, np.float64]))  # ONNX Runtime has no other BatchNormalization


def any_chain(build: Builder, dtype: np.dtype[Any]) -> list[str]:
    spatial, group = build.integer(1, 3), build.choice([1, 1, 1, 2])
    inputs, outputs = group * build.integer(1, 3), group * build.integer(1, 2)
    first = build.choice([inputs, inputs, inputs, 1])  # one channel, which a constant makes many
    batchless = build.chance(3)
    batch = [] if batchless else [build.integer(1, 2)]
    sizes = [build.integer(3, 6) for _ in range(spatial)]
    x = build.input([*batch, first, *sizes], dtype)
    per_channel = [inputs, *[1] * spatial]
    for _ in range(build.integer(1, 3)):
        op = build.choice(["Sub", "Div", "Mul", "Add", "Gather"])
        shape = build.choice([per_channel, [], [1], [1, *per_channel], [inputs]])
        if op == "Gather":
            taken = np.array([build.integer(-inputs, inputs - 1) for _ in range(inputs)])
            if not build.chance(4):
                taken = np.roll(
                    np.arange(inputs)[:: build.choice([1, -1])], build.integer(0, 2)
                ) - inputs * build.integer(0, 1)
            x = build.node(
                "Gather", [x, build.constant(taken)], axis=build.choice([len(batch), 1, -1 - spatial, len(batch) + 1])
            )
        elif op == "Div":
            by = np.array([build.choice([1, 2, -4, 0.5]) for _ in range(max(1, int(np.prod(shape))))], dtype).reshape(
                shape
            )
            x = build.node(op, [x, build.constant(by)])
        else:
            by_name = build.weight(shape, dtype)
            x = build.node(op, [x, by_name] if build.chance(2) else [by_name, x])
    if batchless and build.chance(2):
        x = build.node("Reshape", [x, build.constant(np.array([1, inputs, *sizes]))])
    elif batchless:
        axes = build.constant(np.array([0])) if build.opset >= 13 else None
        written = {} if axes is not None else {"axes": [0]}
        x = build.node("Unsqueeze", [x] if axes is None else [x, axes], **written)
    window = any_window(build, spatial)
    if build.chance(2):
        window |= {"pads": None, "auto_pad": None}
    weights = [build.weight([outputs, inputs // group, *window["kernel_shape"]], dtype)]
    if build.chance(2):
        weights.append(build.weight([outputs], dtype))
    return [build.node("Conv", [x, *weights], group=group, **window)]
