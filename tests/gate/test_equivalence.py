"""The comparison raises the alarm for every difference that matters and for no other."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gate.usual_rows import compare
from graphsurgery.detections.row_groups import Group
from graphsurgery.errors import InputError
from graphsurgery.gate.tolerances import Tolerance, Tolerances
from graphsurgery.gate.verdicts import Comparison, TensorReport, merge

Array = NDArray[Any]
Tensors = dict[str, Array]
EXACT = Tolerances.parse({"*": 0})
RECIPE = Tolerances.parse(
    {"boxes": 1e-3, "labels": 0, "scores": 1e-4, "masks": 1e-3, "*": {"relative": 1e-4}, "unmatched": 0}
)
DETECTION_NAMES = ("boxes", "labels", "scores", "masks")


def f32(*values: float) -> Array:
    return np.array(values, dtype=np.float32)


def report(reference: Array, candidate: Array, tolerance: object = 0) -> TensorReport:
    """Compare one tensor, named x."""
    tolerances = Tolerances.parse({"x": tolerance})  # type: ignore[dict-item]
    (only,) = compare({"x": reference}, {"x": candidate}, tolerances).tensors
    return only


def failed(comparison: Comparison) -> list[str]:
    return [tensor.name for tensor in comparison.tensors if tensor.verdict == "failed"]


def named(comparison: Comparison, name: str) -> TensorReport:
    (found,) = (tensor for tensor in comparison.tensors if tensor.name == name)
    return found


# Values


def test_equal_tensors_pass_with_no_tolerance_at_all() -> None:
    seen = report(f32(1, 2, -3), f32(1, 2, -3))
    assert (seen.verdict, seen.reason) == ("passed", "")
    assert (seen.max_abs, seen.max_rel, seen.mean_abs, seen.needed, seen.allowed) == (0, 0, 0, 0, 0)
    assert (seen.cosine, seen.sqnr_db) == (1, math.inf)


def test_metrics_are_those_of_their_definitions() -> None:
    seen = report(f32(1, 2, 4, 0), f32(1, 3, 4, 0.5))
    assert (seen.max_abs, seen.max_rel, seen.mean_abs) == (1, 0.5, 0.375)
    assert seen.cosine == pytest.approx(23 / math.sqrt(21 * 26.25))
    assert seen.sqnr_db == pytest.approx(10 * math.log10(21 / 1.25))


@pytest.mark.parametrize("tolerance", [0, 0.5, 0.999, {"relative": 0.3}, None])
def test_two_is_never_one(tolerance: object) -> None:
    tolerances = Tolerances.parse({} if tolerance is None else {"x": tolerance})  # type: ignore[dict-item]
    for reference, candidate in ((f32(1), f32(2)), (f32(2), f32(1)), (f32(1, 2), f32(1, 1))):
        assert compare({"x": reference}, {"x": candidate}, tolerances).verdict == "failed"


def test_the_message_says_what_was_seen_allowed_and_needed() -> None:
    comparison = compare({"boxes": f32(1, 2)}, {"boxes": f32(1, 2.5)}, Tolerances.parse({"boxes": 1e-3}))
    assert comparison.explain() == ("boxes: 0.5 off where 0.001 is allowed (smallest tolerance that would pass: 0.5)")


def test_a_relative_tolerance_is_a_share_of_the_largest_finite_reference() -> None:
    reference = f32(1, -200, math.inf)
    seen = report(reference, f32(1.5, -200, math.inf), {"relative": 0.01})
    assert (seen.verdict, seen.allowed) == ("passed", 2.0)
    seen = report(reference, f32(4, -200, math.inf), {"relative": 0.01})
    assert (seen.verdict, seen.needed, seen.needed_kind) == ("failed", 3 / 200, "relative")
    assert seen.explain().endswith("(smallest tolerance that would pass: {relative: 0.015})")


def test_a_signal_to_noise_ratio_will_do_where_single_values_are_far_off() -> None:
    reference, candidate = f32(*range(1, 101)), f32(*range(1, 100), 90)
    seen = report(reference, candidate, {"sqnr": 35})  # 10 log10(338,350 / 100) = 35.29
    assert (seen.verdict, seen.asked_db) == ("passed", 35)
    assert "SQNR 35.29 dB where 35 dB is asked" in seen.explain()
    seen = report(reference, candidate, {"sqnr": 36})
    assert seen.verdict == "failed"
    assert seen.explain().endswith("(smallest tolerance that would pass: {sqnr: 35.29})")
    assert report(reference, candidate, {"absolute": 10, "sqnr": 100}).verdict == "passed"


def test_a_signal_to_noise_ratio_excuses_no_integer_and_no_nan() -> None:
    assert report(np.arange(9), np.arange(9) + 1, {"sqnr": 1}).verdict == "failed"
    assert report(f32(1, 2, 3), f32(1, 2, math.nan), {"sqnr": 1}).verdict == "failed"


def test_a_noisier_tensor_is_worse_whatever_its_largest_error_is() -> None:
    quiet, noisy = f32(0, 1000), f32(1, 2)
    found = compare(
        {"quiet": quiet, "noisy": noisy},
        {"quiet": quiet + np.float32(5), "noisy": noisy + np.float32(0.2)},
        Tolerances.parse({"*": {"sqnr": 10}}),
    )
    assert found.worst is not None
    assert found.worst.name == "noisy"


def test_granted_ratios_only_ever_go_down() -> None:
    wide = Tolerance(sqnr=20).or_larger(Tolerance(absolute=1, sqnr=15)).or_larger(Tolerance(sqnr=18))
    assert wide == Tolerance(absolute=1, sqnr=15)


@pytest.mark.parametrize("kind", ["absolute", "relative"])
def test_the_tolerance_proposed_passes_and_a_smaller_one_does_not(kind: str) -> None:
    for seed in range(100):
        rng = np.random.default_rng(seed)
        reference = rng.normal(0, 10.0 ** rng.integers(-6, 7), 50).astype(np.float32)
        candidate = reference * (1 + rng.normal(0, 1e-3, 50)).astype(np.float32)
        needed = report(reference, candidate, {kind: 0}).needed
        assert needed is not None
        assert report(reference, candidate, {kind: needed}).verdict == "passed"
        assert report(reference, candidate, {kind: needed * (1 - 1e-12)}).verdict == "failed"
        written = report(reference, candidate).explain().split()[-1].strip(")")
        assert report(reference, candidate, float(written)).verdict == "passed"


def test_no_relative_tolerance_would_pass_for_a_reference_of_zeros() -> None:
    seen = report(f32(0, 0), f32(0, 1), {"relative": 0.5})
    assert (seen.verdict, seen.needed, seen.cosine, seen.sqnr_db) == ("failed", None, None, -math.inf)


def test_zeros_have_no_cosine() -> None:
    seen = report(f32(3, 4), f32(0, 0))
    assert (seen.cosine, seen.sqnr_db, seen.verdict) == (None, 0.0, "failed")


def test_half_precision_is_compared_in_double() -> None:
    reference = np.array([60000, 1], dtype=np.float16)
    seen = report(reference, -reference)
    assert (seen.max_abs, seen.verdict) == (120000, "failed")


def test_doubles_at_their_limits_fail_and_stay_json() -> None:
    seen = report(np.array([1.7e308, 1]), np.array([-1.7e308, 1]), 1e300)
    assert (seen.verdict, seen.max_abs, seen.needed) == ("failed", math.inf, None)
    assert json.loads(json.dumps(seen.to_json(), allow_nan=False))["max_abs"] is None


def test_arrays_of_any_layout_and_byte_order_compare() -> None:
    reference = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for candidate in (
        np.asfortranarray(reference),
        reference.astype(">f4"),
        reference.repeat(2, axis=2)[..., ::2],
    ):
        assert report(reference, candidate).verdict == "passed"
    assert report(reference, reference.T.reshape(2, 3, 4)).verdict == "failed"
    assert report(np.array(1.5), np.array(2.5)).verdict == "failed"


# Names, shapes and dtypes


def test_missing_and_extra_tensors_fail() -> None:
    comparison = compare({"a": f32(1, 2), "b": f32(3, 4)}, {"a": f32(1, 2), "c": f32(3, 4)}, Tolerances())
    assert failed(comparison) == ["b", "c"]
    assert named(comparison, "b").reason == "missing: it was captured but not computed"
    assert named(comparison, "c").reason == "extra: it was computed but not captured"
    assert comparison.verdict == "failed"


@pytest.mark.parametrize("shape", [(3, 1), (1, 3), (3,), (1,), (), (2, 3), (0,)])
def test_nothing_is_broadcast(shape: tuple[int, ...]) -> None:
    seen = report(np.ones((1, 1, 3)), np.ones(shape), 10)
    assert (seen.verdict, seen.reason) == ("failed", f"shape {shape} where (1, 1, 3) was captured")


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "bool"])
def test_retyped_tensors_fail_however_equal_their_values(dtype: str) -> None:
    seen = report(f32(0, 1), f32(0, 1).astype(dtype), 10)
    assert (seen.verdict, seen.reason) == ("failed", f"dtype {dtype} where float32 was captured")
    assert seen.explain() == f"x: dtype {dtype} where float32 was captured"


def test_empty_tensors_of_other_shape_or_dtype_fail() -> None:
    assert report(np.zeros((0, 4)), np.zeros((0, 5))).verdict == "failed"
    assert report(np.zeros((0, 4)), np.zeros((0, 4), dtype=np.float32)).verdict == "failed"


# NaN and Inf


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        ((math.nan, 1, math.nan, math.inf, 2), ""),
        ((math.nan, math.nan, math.nan, math.inf, math.nan), "NaN at 2 places where the reference has none"),
        ((math.nan, 1, 0, math.inf, 2), "no NaN at 1 place where the reference has one"),
        ((math.nan, 1, math.nan, -math.inf, 2), "Inf at 1 place is new, lost, or of the other sign"),
        ((math.nan, 1, math.nan, 5, math.inf), "Inf at 2 places is new, lost, or of the other sign"),
        ((math.nan, 1, math.nan, math.nan, 2), "NaN at 1 place where the reference has none"),
    ],
)
def test_nan_and_inf_must_be_where_the_reference_has_them(candidate: tuple[float, ...], reason: str) -> None:
    seen = report(f32(math.nan, 1, math.nan, math.inf, 2), f32(*candidate), 0.1)
    assert (seen.verdict, seen.reason) == ("failed" if reason else "passed", reason)
    assert seen.max_abs in (0, None), "what is finite on both sides is equal"
    json.dumps(seen.to_json(), allow_nan=False)


def test_nan_never_passes_a_wide_tolerance() -> None:
    assert report(f32(1, 2), f32(math.nan, math.nan), 1e30).verdict == "failed"
    assert report(f32(math.nan, math.nan), f32(1, 2), 1e30).verdict == "failed"


# Integers, bools, strings


@pytest.mark.parametrize(
    ("dtype", "low", "high", "difference"),
    [
        ("int8", -128, 127, 255),
        ("int64", -(2**63), 2**63 - 1, 2**64 - 1),
        ("uint64", 0, 2**64 - 1, 2**64 - 1),
        ("uint8", 0, 255, 255),
        ("bool", False, True, 1),
    ],
)
def test_differences_of_integers_do_not_overflow(dtype: str, low: int, high: int, difference: int) -> None:
    one, other = np.array([low, high], dtype=dtype), np.array([high, low], dtype=dtype)
    for reference, candidate in ((one, other), (other, one)):
        seen = report(reference, candidate, difference / 2)
        assert (seen.verdict, seen.max_abs, seen.needed) == ("failed", float(difference), float(difference))
    assert report(one, one).verdict == "passed"


def test_neighbouring_integers_that_one_double_stands_for_differ() -> None:
    for dtype in (np.int64, np.uint64):
        reference = np.array([2**60, 2**60 + 1], dtype=dtype)
        assert report(reference, reference).verdict == "passed", "they are not constant either"
        seen = report(reference, reference[::-1])
        assert (seen.verdict, seen.max_abs) == ("failed", 1)


def test_integers_ignore_relative_tolerances_and_obey_absolute_ones() -> None:
    reference, candidate = np.array([1000, 2000, 3000]), np.array([1001, 2000, 3000])
    assert report(reference, candidate, {"relative": 0.5}).verdict == "failed"
    assert compare({"x": reference}, {"x": candidate}, Tolerances()).verdict == "failed"
    assert report(reference, candidate, 1).verdict == "passed"


def test_strings_are_equal_or_not() -> None:
    reference = np.array(["cat", "dog"])
    assert report(reference, np.array(["cat", "dog"], dtype="U20")).verdict == "passed"
    assert report(reference, np.array(["cat", "dot"]), 9).reason == "1 of 2 strings differ"
    assert report(reference[:1], reference[:1]).verdict == "inconclusive"
    assert report(reference, np.array([b"cat", b"dog"])).reason == "dtype bytes where string was captured"


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (np.array([1, "a"], dtype=object), "dtype object"),
        (np.array([1j]), "dtype complex128"),
        (np.ma.masked_array([1.0], mask=[True]), "is a MaskedArray"),
        ([1.0, 2.0], "is a list"),
        (np.float32(1), "is a float32"),
    ],
)
def test_refuses_anything_but_plain_arrays_on_either_side(tensor: Array, words: str) -> None:
    with pytest.raises(InputError, match=f"reference 'x' .*{words}|reference 'x' {words}"):
        compare({"x": tensor}, {"x": f32(1)}, EXACT)
    with pytest.raises(InputError, match="candidate 'y'"):
        compare({"x": f32(1)}, {"y": tensor}, EXACT)


# Inconclusive


@pytest.mark.parametrize(
    "reference",
    [np.zeros((2, 3)), np.full(4, 7), f32(5), np.zeros((0, 4)), np.full(3, np.nan), np.full(2, -np.inf)],
)
def test_a_reference_without_information_never_passes(reference: Array) -> None:
    comparison = compare({"x": reference}, {"x": reference.copy()}, Tolerances.parse({"*": 1}))
    assert (comparison.tensors[0].verdict, comparison.verdict) == ("inconclusive", "inconclusive")
    assert comparison.explain().startswith("inconclusive (1 compared); closest to its limit: x: ")


def test_a_constant_reference_fails_a_candidate_that_differs() -> None:
    assert report(np.zeros(3), f32(0, 0, 1).astype(np.float64)).verdict == "failed"
    assert report(np.full(3, np.nan), np.array([np.nan, np.nan, 0])).verdict == "failed"
    assert report(np.zeros((0, 4)), np.zeros((1, 4))).verdict == "failed"


def test_one_informative_tensor_makes_the_comparison_conclusive() -> None:
    tensors = {"flat": np.zeros(3), "x": f32(1, 2)}
    comparison = compare(tensors, tensors, EXACT)
    assert [tensor.verdict for tensor in comparison.tensors] == ["inconclusive", "passed"]
    assert comparison.verdict == "passed"


def test_nothing_compared_is_inconclusive() -> None:
    comparison = compare({}, {}, EXACT)
    assert (comparison.verdict, comparison.worst) == ("inconclusive", None)
    assert comparison.explain() == "inconclusive: there are no tensors to compare"
    assert merge([]).verdict == "inconclusive"


def test_says_when_the_tolerance_is_as_wide_as_the_reference() -> None:
    seen = report(f32(1, 2, 3), f32(2, 2, 2), 10)
    assert (seen.verdict, seen.reason) == (
        "passed",
        "allowed 10 is as wide as all of the reference: a constant would pass",
    )


# Tolerances


def test_the_exact_name_wins_then_the_first_pattern_then_the_default() -> None:
    tolerances = Tolerances.parse({"features_*": 1, "f*": {"relative": 2}, "features_1": 3})
    assert tolerances.lookup("features_1") == Tolerance(absolute=3)
    assert tolerances.lookup("features_0") == Tolerance(absolute=1)
    assert tolerances.lookup("found") == Tolerance(relative=2)
    assert tolerances.lookup("Features_0") == Tolerance(relative=1e-4)


def test_a_name_that_looks_like_a_pattern_is_a_name_first() -> None:
    tolerances = Tolerances.parse({"x[0]": 1, "x0": 2})
    assert tolerances.lookup("x[0]") == Tolerance(absolute=1)


def test_a_grant_widens_what_it_names_and_nothing_else() -> None:
    base = Tolerances.parse({"boxes": 1e-3, "scores": 0.5, "rel": {"relative": 0.1}})
    wide = base.widened(Tolerances.parse({"boxes": 2, "scores": 0.1, "rel": 3, "objectness_*": 10, "unmatched": 2}))
    assert wide.lookup("boxes") == Tolerance(absolute=2)
    assert wide.lookup("scores") == Tolerance(absolute=0.5), "a grant never narrows"
    assert wide.lookup("objectness_4") == Tolerance(absolute=10, relative=1e-4)
    assert wide.lookup("masks") == base.lookup("masks")
    assert (base.may_lack_partner("boxes"), wide.may_lack_partner("boxes")) == (0, 2)
    again = Tolerances().widened(wide)
    assert again.lookup("objectness_4") == Tolerance(absolute=10, relative=1e-4)
    for largest, allowed in ((1.0, 3.0), (100.0, 10.0)):
        reference = np.array([largest, 0])
        seen = compare({"rel": reference}, {"rel": reference}, wide).tensors[0]
        assert seen.allowed == allowed


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"boxes": -1}, "tolerance 'boxes': -1 is no tolerance"),
        ({"boxes": math.nan}, "tolerance 'boxes': nan is no tolerance"),
        ({"boxes": math.inf}, "tolerance 'boxes': inf is no tolerance"),
        ({"boxes": 10**400}, "tolerance 'boxes': 1000"),
        ({"boxes": "1e-4"}, "tolerance 'boxes': '1e-4' is no tolerance"),
        ({"boxes": True}, "tolerance 'boxes': True is no tolerance"),
        ({"boxes": None}, "tolerance 'boxes': a tolerance needs a number"),
        ({"boxes": {}}, "tolerance 'boxes': a tolerance needs a number"),
        ({"boxes": {"relative": -0.1}}, "tolerance 'boxes': -0.1 is no tolerance"),
        ({"boxes": {"rel": 1}}, "tolerance 'boxes': unknown key 'rel'"),
        ({"boxes": [1]}, "tolerance 'boxes': .1. is no tolerance"),
        ({True: 1}, "tolerance True: a tensor name or pattern is text"),
        ({"unmatched": -1}, "tolerance 'unmatched': -1 is no count"),
        ({"unmatched": 0.5}, "tolerance 'unmatched': 0.5 is no count"),
        ({"unmatched": True}, "tolerance 'unmatched': True is no count"),
        ({"unmatched": {"absolute": 1}}, "tolerance 'unmatched': {'absolute': 1} is no count"),
    ],
)
def test_refuses_tolerances_that_are_none_and_names_the_key(mapping: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Tolerances.parse(mapping)


# Worst, merged, JSON


def test_the_worst_tensor_is_the_one_furthest_beyond_its_own_tolerance() -> None:
    reference = {"a": f32(0, 1), "b": f32(0, 1), "c": f32(0, 1)}
    tolerances = Tolerances.parse({"a": 10, "b": 0.01, "c": 0.5})
    close = compare(reference, {"a": f32(0, 5), "b": f32(0, 1.005), "c": f32(0, 1.375)}, tolerances)
    assert close.worst is not None
    assert (close.verdict, close.worst.name) == ("passed", "c")
    assert close.explain() == "passed (3 compared); closest to its limit: c: 0.375 off where 0.5 is allowed"
    far = compare(reference, {"a": f32(0, 5), "b": f32(0, 1.1), "c": f32(0, 2)}, tolerances)
    assert far.worst is not None
    assert far.worst.name == "b"
    assert far.explain().endswith("; 1 more failed")
    gone = compare(reference, {"b": f32(0, 1.1), "c": f32(0, 2)}, tolerances)
    assert gone.explain() == "a: missing: it was captured but not computed; 2 more failed"


def test_merging_keeps_the_worst_sample_of_each_tensor() -> None:
    reference = {"a": f32(0, 1), "b": f32(0, 1)}
    tolerances = Tolerances.parse({"*": 0.5})
    one = compare(reference, {"a": f32(0, 1.25), "b": f32(0, 1)}, tolerances)
    two = compare(reference, {"a": f32(0, 1.125), "b": f32(0, 9)}, tolerances)
    merged = merge([("one", one), ("two", two)])
    assert [(tensor.name, tensor.sample, tensor.max_abs) for tensor in merged.tensors] == [
        ("a", "one", 0.25),
        ("b", "two", 8.0),
    ]
    assert merged.verdict == "failed"
    assert merged.samples == (("one", "passed"), ("two", "failed"))
    assert merged.explain() == ("b of sample two: 8 off where 0.5 is allowed (smallest tolerance that would pass: 8)")


def test_a_tensor_is_inconclusive_only_if_it_is_so_in_every_sample() -> None:
    empty = compare({"x": np.zeros((0, 4))}, {"x": np.zeros((0, 4))}, EXACT)
    full = compare({"x": f32(1, 2)}, {"x": f32(1, 2)}, EXACT)
    for order in ([("e", empty), ("f", full)], [("f", full), ("e", empty)]):
        assert (merge(order).verdict, merge(order).tensors[0].sample) == ("passed", "f")
    assert merge([("e", empty), ("e2", empty)]).verdict == "inconclusive"


def test_json_holds_the_verdict_and_no_infinities() -> None:
    comparison = compare({"x": f32(1, 2)}, {"x": f32(1, 2)}, EXACT)
    for result in (comparison, merge([("7", comparison)])):
        data = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert (data["verdict"], data["worst"], data["tensors"][0]["sqnr_db"]) == ("passed", "x", None)
    assert data["samples"] == [{"id": "7", "verdict": "passed"}]


def test_big_tensors_are_measured_in_bounded_memory() -> None:
    reference = np.linspace(-1, 1, 1 << 22, dtype=np.float32)
    candidate = reference.copy()
    candidate[-1] = 3
    tracemalloc.start()
    seen = report(reference, candidate, 0.5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (seen.verdict, seen.max_abs) == ("failed", 2.0)
    assert peak < reference.nbytes, "a single float64 copy would be twice as much"


# Groups of rows


def detections(seed: int, count: int = 12) -> Tensors:
    """Draw detections that are distinct in every tensor, and two tensors that are no part of the group."""
    rng = np.random.default_rng(seed)
    corner = np.stack([np.arange(count) * 50.0, rng.uniform(0, 200, count)], axis=1)
    return {
        "features_0": rng.normal(size=(1, 3, 5, 4)).astype(np.float32),
        "boxes": np.concatenate([corner, corner + rng.uniform(10, 40, (count, 2))], axis=1).astype(np.float32),
        "labels": np.arange(count, dtype=np.int64) % 3 + 1,
        "scores": np.linspace(0.9, 0.1, count).astype(np.float32),
        "masks": rng.uniform(size=(count, 1, 4, 4)).astype(np.float32),
        "counts": rng.permutation(9),
    }


def rows(tensors: Mapping[str, Array], order: Any, names: tuple[str, ...] = DETECTION_NAMES) -> Tensors:
    return {name: tensor[order] if name in names else tensor for name, tensor in tensors.items()}


def test_detections_in_another_order_pass_with_a_note() -> None:
    reference = detections(0)
    order = np.roll(np.arange(12), 1)
    comparison = compare(reference, rows(reference, order), EXACT)
    assert (comparison.verdict, failed(comparison)) == ("passed", [])
    assert comparison.notes == ("detections: order differs, 12 of 12 are at another place",)
    assert compare(reference, reference, EXACT).notes == ()


def test_a_missing_detection_fails_and_the_others_are_still_measured() -> None:
    reference = detections(0)
    candidate = rows(reference, np.delete(np.arange(12), 4))
    candidate["scores"][0] += 0.01
    comparison = compare(reference, candidate, RECIPE)
    assert failed(comparison) == ["boxes", "scores"]
    box = ", ".join(f"{value:.4g}" for value in reference["boxes"][4])
    assert named(comparison, "boxes").reason == (
        f"1 of 12 captured detections has no partner (label 2, score 0.6091, box [{box}])"
    )
    assert named(comparison, "boxes").needed is None
    assert named(comparison, "boxes").max_abs == 0
    assert named(comparison, "scores").max_abs == pytest.approx(0.01, rel=1e-4)


def test_unmatched_detections_within_the_count_pass_with_a_note() -> None:
    reference = detections(0)
    candidate = rows(reference, np.delete(np.arange(12), 4))
    one, none = (Tolerances.parse({"*": 0, "unmatched": count}) for count in (1, 0))
    comparison = compare(reference, candidate, one)
    assert comparison.verdict == "passed"
    assert comparison.notes[0].startswith("1 of 12 captured detections has no partner")
    assert compare(reference, candidate, none).verdict == "failed"
    candidate["boxes"][0] += 200
    assert "where 1 may have none" in named(compare(reference, candidate, one), "boxes").reason
    wide = none.widened(Tolerances.parse({"unmatched": 3}))
    assert compare(reference, candidate, wide).verdict == "passed"


def test_rows_of_score_0_fill_up_a_list_and_need_no_partner() -> None:
    reference = detections(0)
    filled = rows(reference, np.array([*range(12), 0, 1, 2]))
    for name in ("boxes", "scores"):
        filled[name][12:] = 0
    assert compare(reference, filled, Tolerances.parse({"*": 0})).verdict == "passed"
    assert compare(filled, reference, Tolerances.parse({"*": 0})).verdict == "passed"
    lost = rows(filled, np.array([*range(4), *range(5, 15)]))
    assert "1 of 12 captured detections" in named(compare(reference, lost, EXACT), "boxes").reason
    filled["scores"][13] = 1e-6
    assert "1 of 15 computed detections" in named(compare(reference, filled, EXACT), "boxes").reason
    filled["scores"][:] = 0
    assert compare(reference, filled, EXACT).verdict == "failed"


def test_all_detections_lost_within_the_count_prove_nothing() -> None:
    reference = {name: tensor[:1] for name, tensor in detections(0).items() if name in DETECTION_NAMES}
    candidate = rows(reference, slice(0, 0))
    comparison = compare(reference, candidate, Tolerances.parse({"unmatched": 1}))
    assert comparison.verdict == "inconclusive"
    assert compare(reference, candidate, Tolerances()).verdict == "failed"
    assert compare(candidate, reference, Tolerances()).verdict == "failed"
    assert compare(candidate, candidate, Tolerances()).verdict == "inconclusive"


@pytest.mark.parametrize("name", ["boxes", "scores", "masks"])
def test_no_count_excuses_nan_in_a_detection_without_partner(name: str) -> None:
    reference = detections(0)
    candidate = rows(reference, np.array([*range(12), 3]))
    candidate["boxes"][-1] = [900, 900, 950, 950]
    tolerances = Tolerances.parse({"*": 0, "unmatched": 5})
    assert compare(reference, candidate, tolerances).verdict == "passed"
    candidate[name][-1] = np.nan
    comparison = compare(reference, candidate, tolerances)
    assert failed(comparison) == ["boxes"]
    assert comparison.explain().startswith(f"boxes: NaN or Inf in {name} of detections without partner")


def test_proposals_are_a_set_too_and_take_their_features_along() -> None:
    rng = np.random.default_rng(0)
    reference = {
        "proposals": detections(0)["boxes"],
        "box_features": rng.normal(size=(12, 2, 7, 7)).astype(np.float32),
    }
    order = rng.permutation(12)
    both = rows(reference, order, ("proposals", "box_features"))
    comparison = compare(reference, both, EXACT)
    assert comparison.verdict == "passed"
    assert comparison.notes[0].startswith("proposals: order differs")
    assert failed(compare(reference, rows(reference, order, ("proposals",)), EXACT)) == ["box_features"]
    assert failed(compare(reference, rows(reference, order, ("box_features",)), EXACT)) == ["box_features"]


def test_a_member_that_lost_a_row_fails_by_its_shape_though_the_boxes_moved() -> None:
    reference = detections(0)
    candidate = rows(reference, slice(None, None, -1))
    candidate["masks"] = candidate["masks"][:11]
    comparison = compare(reference, candidate, EXACT)
    assert failed(comparison) == ["masks"]
    assert named(comparison, "masks").reason == "shape (11, 1, 4, 4) where (12, 1, 4, 4) was captured"


def test_without_its_keys_a_group_is_compared_in_order() -> None:
    reference = {"masks": detections(0)["masks"], "scores": detections(0)["scores"]}
    comparison = compare(reference, rows(reference, slice(None, None, -1)), EXACT)
    assert failed(comparison) == ["masks", "scores"]


def test_a_caller_names_the_groups_of_its_own() -> None:
    rng = np.random.default_rng(0)
    reference = {"rois": detections(0)["boxes"], "crops": rng.normal(size=(12, 3))}
    candidate = rows(reference, slice(None, None, -1), ("rois", "crops"))
    assert compare(reference, candidate, EXACT, [Group(("rois",), ("crops",))]).verdict == "passed"
    assert compare(reference, candidate, EXACT).verdict == "failed"


# 200 mutations, with the exact set of tensors that each must fail


Mutation = Callable[[Tensors, np.random.Generator], tuple[Tensors, set[str]]]


def unchanged(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    return {name: tensor.copy() for name, tensor in tensors.items()}, set()


def any_float(tensors: Tensors, rng: np.random.Generator) -> str:
    return str(rng.choice([name for name, tensor in tensors.items() if tensor.dtype.kind == "f"]))


def any_index(tensor: Array, rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(rng.integers(size)) for size in tensor.shape)


def perturbed_beyond(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    name = any_float(tensors, rng)
    tensors[name][any_index(tensors[name], rng)] += 0.01
    return tensors, {name}


def perturbed_within(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    for tensor in tensors.values():
        if tensor.dtype.kind == "f":
            tensor += rng.uniform(-5e-5, 5e-5, tensor.shape).astype(tensor.dtype)
    return tensors, set()


def dropped(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    # Without one of its keys a group can't be matched, but nothing has moved either.
    name = str(rng.choice(list(tensors)))
    return {key: tensor for key, tensor in tensors.items() if key != name}, {name}


def added(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    return {**tensors, "novel": f32(1, 2)}, {"novel"}


def reordered(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    return rows(tensors, rng.permutation(12)), set()


def reordered_without_masks(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    order = np.roll(np.arange(12), int(rng.integers(1, 12)))
    return rows(tensors, order, ("boxes", "labels", "scores")), {"masks"}


def reordered_masks(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    return rows(tensors, np.roll(np.arange(12), int(rng.integers(1, 12))), ("masks",)), {"masks"}


def reordered_boxes_within_a_label(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    # A roll by 3 keeps the labels: each box finds its partner, with the scores and masks of another.
    return rows(tensors, np.roll(np.arange(12), 3), ("boxes",)), {"scores", "masks"}


def reordered_labels(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    return rows(tensors, np.roll(np.arange(12), 1), ("labels",)), {"boxes"}


def reshaped(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    name = str(rng.choice(list(tensors)))
    tensors[name] = tensors[name][None]
    return tensors, {name}


def transposed(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    tensors["features_0"] = tensors["features_0"].swapaxes(2, 3)
    return tensors, {"features_0"}


def broadcastable(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    tensors["features_0"] = tensors["features_0"][:, :1]
    return tensors, {"features_0"}


def retyped(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    name = str(rng.choice(list(tensors)))
    tensors[name] = tensors[name].astype(np.float64 if tensors[name].dtype.kind == "f" else np.int32)
    return tensors, {name}


def nan_in_features_or_masks(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    name = str(rng.choice(["features_0", "masks", "scores"]))
    tensors[name][any_index(tensors[name], rng)] = np.nan
    return tensors, {name}


def nan_in_a_box(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    tensors["boxes"][any_index(tensors["boxes"], rng)] = np.nan
    return tensors, {"boxes"}


def detection_lost(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    return rows(tensors, np.delete(np.arange(12), int(rng.integers(12)))), {"boxes"}


def detection_computed_twice(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    return rows(tensors, np.append(np.arange(12), int(rng.integers(12)))), {"boxes"}


def detection_replaced_by_a_copy(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    order = np.arange(12)
    here = int(rng.integers(12))
    order[here] = (here + int(rng.integers(1, 12))) % 12
    return rows(tensors, order), {"boxes"}


def detection_invented(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    candidate = rows(tensors, np.append(np.arange(12), 0))
    candidate["boxes"][-1] += 1000
    return candidate, {"boxes"}


def label_off_by_one(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    tensors["labels"][int(rng.integers(12))] += 1
    return tensors, {"boxes"}


def integer_off_by_one(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    tensors["counts"][int(rng.integers(9))] += 1
    return tensors, {"counts"}


def all_detections_lost(tensors: Tensors, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    return rows(tensors, slice(0, 0)), {"boxes"}


MUTATIONS: tuple[Mutation, ...] = (
    unchanged,
    perturbed_beyond,
    perturbed_within,
    dropped,
    added,
    reordered,
    reordered_without_masks,
    reordered_masks,
    reordered_boxes_within_a_label,
    reordered_labels,
    reshaped,
    transposed,
    broadcastable,
    retyped,
    nan_in_features_or_masks,
    nan_in_a_box,
    detection_lost,
    detection_computed_twice,
    detection_replaced_by_a_copy,
    detection_invented,
    label_off_by_one,
    integer_off_by_one,
    all_detections_lost,
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
@pytest.mark.parametrize("seed", range(10))
def test_every_mutation_fails_exactly_the_tensors_it_broke(mutation: Mutation, seed: int) -> None:
    reference = detections(seed)
    candidate, broken = mutation(detections(seed), np.random.default_rng(1000 + seed))
    for shuffle in (False, True):
        if shuffle and not broken & set(DETECTION_NAMES) and set(candidate) >= set(DETECTION_NAMES):
            candidate = rows(candidate, np.random.default_rng(seed).permutation(12))
        comparison = compare(reference, candidate, RECIPE)
        assert set(failed(comparison)) == broken, comparison.explain()
        assert comparison.verdict == ("failed" if broken else "passed")
        json.dumps(comparison.to_json(), allow_nan=False)


def test_a_count_for_one_group_leaves_the_others_strict() -> None:
    tolerances = Tolerances.parse({"unmatched": {"proposals": 2}})
    assert tolerances.may_lack_partner("proposals") == 2
    assert tolerances.may_lack_partner("boxes") == 0
    boxes = np.arange(40, dtype=np.float32).reshape(10, 4) * 7 + np.array([0, 0, 30, 30], np.float32)
    other = boxes.copy()
    other[3] += 500
    assert compare({"proposals": boxes}, {"proposals": other}, tolerances).verdict == "passed"
    labels, scores = np.ones(10, np.int64), np.linspace(0.1, 0.9, 10, dtype=np.float32)
    found = {"boxes": boxes, "labels": labels, "scores": scores}
    assert compare(found, {**found, "boxes": other}, tolerances).verdict == "failed"
