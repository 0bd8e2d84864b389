from graphsurgery.passes.lower_mean import LowerMean
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz


def model(nodes: str, opset: int = 17, constants: str = "") -> str:
    ends = f"(float[2, 5] a, float[2, 5] b, float[2, 5] c) => (float[2, 5] y) {constants}"
    return f'<ir_version: 8, opset_import: ["": {opset}, "my": 1]> g {ends} {{ {nodes} }}'


def test_becomes_a_sum_and_a_product() -> None:
    after = model(
        "y_partial = Add (a, b)  y_partial_2 = Add (y_partial, c)  y = Mul (y_partial_2, y_share)",
        constants="<float y_share = {0.3333333432674408}>",
    )
    assert_rewrites(LowerMean(), model("y = Mean (a, b, c)"), after)


def test_that_of_one_tensor_is_the_tensor() -> None:
    assert_rewrites(LowerMean(), model("t = Mean (a)  y = Relu (t)"), model("y = Relu (a)"))


def test_leaves_what_it_does_not_know_alone() -> None:
    assert_untouched(LowerMean(), model("y = Mean (a, b)", opset=7), "operator set 7 doesn't broadcast")
    assert_untouched(LowerMean(), model("t = my.Odd (a)  y = Mean (t, b)"), "its elements are of unknown type")


@fuzz(LowerMean())
def test_any_mean_computes_the_same(build: Builder) -> list[str]:
    shape = build.shape()
    terms = [build.choice([shape, shape[1:], [1] * len(shape)]) for _ in range(build.integer(0, 4))]
    return [build.node("Mean", [build.input(shape), *(build.input(term) for term in terms)])]
