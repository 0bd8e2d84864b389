"""`check A B` of two models: what they are fed, and what is compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from debugging.compared import BACK, HEAD, WHOLE, check, write, write_parts
from graphsurgery.debugging.compare_paths import parse_tolerances
from graphsurgery.errors import InputError


def test_tolerances_decide_between_two_models(tmp_path: Path) -> None:
    one = write(tmp_path / "one.onnx", WHOLE.replace("N", "6"))
    other = write(tmp_path / "other.onnx", WHOLE.replace("N", "6").replace("y = Exp (h)", "e = Exp (h) y = Round (e)"))
    assert check(one, other).verdict == "failed"
    assert check(one, other, tolerances=parse_tolerances(["y=0.5"])).verdict == "passed"


def test_two_models_are_fed_seeded_random_inputs(tmp_path: Path) -> None:
    static = WHOLE.replace("N", "6")
    one = write(tmp_path / "one.onnx", static)
    other = write(tmp_path / "other.onnx", static.replace("h = Relu (x)", "z = Relu (x)\n h = Identity (z)"))
    verdict = check(one, other)
    assert verdict.verdict == "passed"
    assert [name for name, _ in verdict.samples] == ["random 0", "random 1", "random 2"]
    assert check(one, other) == verdict
    assert check(one, write(tmp_path / "wrong.onnx", static.replace("Exp", "Abs"))).verdict == "failed"


def test_a_static_input_stands_in_for_a_dynamic_one(tmp_path: Path) -> None:
    dynamic, static = write(tmp_path / "d.onnx", WHOLE), write(tmp_path / "s.onnx", WHOLE.replace("N", "6"))
    assert check(dynamic, static).verdict == "passed"


def test_a_frozen_batch_is_filled_where_the_other_side_takes_any_number_of_rows(tmp_path: Path) -> None:
    frozen = write(tmp_path / "frozen.onnx", BACK, {"size": 3})
    free = write(tmp_path / "free.onnx", BACK.replace("3", "N"))
    assert check(free, frozen).verdict == "passed"
    assert check(frozen, free).verdict == "passed"


def test_only_what_has_rows_is_filled(tmp_path: Path) -> None:
    text = f"{HEAD} g (float[3, 2] x, float[2, 4] p) => (float[3, 4] y) {{ y = MatMul (x, p) }}"
    frozen = write(tmp_path / "frozen.onnx", text, {"size": 3, "parameters": ["p"]})
    free = write(tmp_path / "free.onnx", text.replace("3", "N"))
    assert check(free, frozen).verdict == "passed"
    assert check(frozen, free).verdict == "passed"
    # two that both say nothing of how many rows p would have
    five = write(tmp_path / "five.onnx", text.replace("3", "5"), {"size": 5, "parameters": ["p"]})
    assert check(frozen, five).verdict == "passed"


def test_frozen_batches_of_different_size_are_no_different_inputs(tmp_path: Path, capture: Path) -> None:
    three = write(tmp_path / "3.onnx", BACK, {"size": 3})
    five = write(tmp_path / "5.onnx", BACK.replace("3", "5"), {"size": 5})
    assert check(three, five).verdict == "passed"
    assert check(three, five, inputs=capture).verdict == "passed"


def test_a_dynamic_input_asks_for_captured_ones(tmp_path: Path, capture: Path) -> None:
    one, parts = write(tmp_path / "one.onnx", WHOLE), write_parts(tmp_path / "parts")
    with pytest.raises(InputError, match=r"input 'x' is float32 \[N, 4\], which is not static; give --inputs"):
        check(one, parts)
    verdict = check(one, parts, inputs=capture)
    assert verdict.verdict == "passed"
    assert [name for name, _ in verdict.samples] == ["a", "b", "none"]


def test_integers_bools_and_halves_get_random_values_too(tmp_path: Path) -> None:
    text = f"""
        {HEAD}
        g (int64[9] i, bool[40] b, float16[30] f) => (float[9] y, bool[40] n, float16[30] r) {{
            table = Constant <value = float[5] {{1.0, 2.0, 3.0, 4.0, 5.0}}> ()
            y = Gather (table, i)
            n = Not (b)
            r = Neg (f)
        }}"""
    one, other = write(tmp_path / "one.onnx", text), write(tmp_path / "other.onnx", text)
    verdict = check(one, other)
    assert [report.verdict for report in verdict.tensors] == ["passed", "passed", "passed"]


def test_text_has_no_random_values(tmp_path: Path) -> None:
    path = write(tmp_path / "text.onnx", f"{HEAD}\ng (string[2] x) => (string[2] y) {{ y = Identity (x) }}")
    with pytest.raises(InputError, match=r"input 'x' is object, which has no random values; give --inputs"):
        check(path, path)


def test_different_inputs_are_an_error_that_names_both(tmp_path: Path) -> None:
    one = write(tmp_path / "one.onnx", WHOLE)
    other = write(tmp_path / "other.onnx", WHOLE.replace("float[N, 4] x", "float[N, 5] x"))
    with pytest.raises(InputError, match=r"one.onnx reads x float32 \[N, 4\] but .*other.onnx reads x .*\[N, 5\]"):
        check(one, other)
    renamed = write(tmp_path / "renamed.onnx", WHOLE.replace("x)", "image)"))
    with pytest.raises(InputError, match=r"reads x .* but .* reads image float32 \[N, 4\]; give two models"):
        check(one, renamed)
    typed = write(tmp_path / "typed.onnx", f"{HEAD}\ng (double[N, 4] x) => (double[N, 4] y) {{ y = Relu (x) }}")
    with pytest.raises(InputError, match=r"reads x float32 \[N, 4\] but .* reads x float64 \[N, 4\]"):
        check(one, typed)


def test_outputs_declared_with_other_shapes_or_types_fail_without_a_run(tmp_path: Path) -> None:
    one = write(tmp_path / "one.onnx", f"{HEAD}\ng (float[2, 3] x) => (float[2, 3] y) {{ y = Relu (x) }}")
    flat = write(
        tmp_path / "flat.onnx", f"{HEAD}\ng (float[2, 3] x) => (float[1, 6] y) {{ y = Flatten <axis = 0> (x) }}"
    )
    whole = write(tmp_path / "whole.onnx", f"{HEAD}\ng (float[2, 3] x) => (int64[2, 3] y) {{ y = Cast <to = 7> (x) }}")
    for other, declared in ((flat, "float32 [1, 6]"), (whole, "int64 [2, 3]")):
        verdict = check(one, other)
        assert verdict.verdict == "failed"
        assert verdict.explain() == f"y: declared as {declared} where the reference declares float32 [2, 3]"


def test_inputs_are_for_two_models_only(tmp_path: Path, capture: Path) -> None:
    with pytest.raises(InputError, match=r"--inputs .*: one side holds captured tensors already; leave --inputs out"):
        check(capture, write(tmp_path / "whole.onnx", WHOLE), inputs=capture)
