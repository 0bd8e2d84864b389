"""`check A B`: any two of an ONNX file, a folder of parts and a model_io folder."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from debugging.compared import (
    AXES,
    CANVAS,
    HEAD,
    WHOLE,
    Watched,
    check,
    model,
    tensors_of,
    write,
    write_capture,
    write_parts,
)
from graphsurgery.capture import samples as captures
from graphsurgery.debugging.compare_paths import compare_paths, parse_tolerances
from graphsurgery.devices import session
from graphsurgery.errors import InputError, ModelError
from graphsurgery.gate.tolerances import Tolerance, Tolerances
from graphsurgery.graph.joined_outputs import JoinedOutput
from graphsurgery.graph.model import Model
from graphsurgery.parts.describe import describe_parts
from graphsurgery.parts.manifest import FILE_NAME
from graphsurgery.parts.part import Part
from graphsurgery.runtime import player
from graphsurgery.testing import parse


def test_a_model_passes_on_the_tensors_captured_of_it(tmp_path: Path, capture: Path) -> None:
    verdict = check(capture, write(tmp_path / "whole.onnx", WHOLE))
    assert verdict.verdict == "passed"
    assert [report.name for report in verdict.tensors] == ["y", "s"]
    assert dict(verdict.samples) == {"a": "passed", "b": "passed", "none": "inconclusive"}


def test_parts_are_played_with_any_number_of_rows(tmp_path: Path, capture: Path) -> None:
    verdict = check(capture, write_parts(tmp_path / "parts"))
    assert verdict.verdict == "passed"
    assert all(report.verdict == "passed" for report in verdict.tensors)


def test_one_part_of_a_folder_is_fed_the_tensors_at_its_boundary(tmp_path: Path, capture: Path) -> None:
    parts = write_parts(tmp_path / "parts")
    assert check(capture, parts / "back.onnx").verdict == "passed"


def test_the_first_is_the_reference_when_the_second_was_captured(tmp_path: Path) -> None:
    path = write(tmp_path / "whole.onnx", WHOLE)
    tensors = tensors_of(3)
    tensors["y"] = tensors["y"] * 2
    captured = write_capture(tmp_path / "io", {"a": tensors})
    forth, back = check(path, captured), check(captured, path)
    assert forth.worst is not None
    assert back.worst is not None
    # The difference is one time the model's own values, and half of the captured ones.
    assert forth.worst.max_rel == pytest.approx(1.0)
    assert back.worst.max_rel == pytest.approx(0.5)


def test_a_folder_whose_outputs_are_pieces_gives_what_is_joined_of_them(tmp_path: Path, capture: Path) -> None:
    halves = f"""
        {HEAD}
        g (float[N, 4] x) => (float[N, 2] left, float[N, 2] right, float[N] s) {{
            h = Relu (x)
            e = Exp (h)
            left, right = Split <axis = 1> (e)
            s = ReduceSum <keepdims = 0> (h, axes)
        }}"""
    folder = tmp_path / "parts"
    one = Part("all", "cpu", False, model(halves))
    one.model.save(folder / "all.onnx")
    for pieces, verdict in ((("left", "right"), "passed"), (("right", "left"), "failed")):
        joins = [JoinedOutput("y", pieces, 1)]
        manifest = describe_parts([one], "test", {}, CANVAS, ["x"], ["left", "right", "s"], joins=joins)
        (folder / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
        assert check(capture, folder).verdict == verdict
        against = check(write(tmp_path / "whole.onnx", WHOLE), folder, inputs=capture)
        assert (against.verdict, [report.name for report in against.tensors]) == (verdict, ["y", "s"])


def test_a_changed_model_fails_and_the_tensor_is_named(tmp_path: Path, capture: Path) -> None:
    verdict = check(capture, write(tmp_path / "other.onnx", WHOLE.replace("Exp (h)", "Exp (x)")))
    assert verdict.verdict == "failed"
    assert verdict.worst is not None
    assert verdict.worst.name == "y"
    assert [report.verdict for report in verdict.tensors] == ["failed", "passed"]


def test_tolerances_decide(tmp_path: Path, capture: Path) -> None:
    proto = parse(WHOLE.replace("y = Exp (h)", "e = Exp (h)\n y = Add (e, c)"))
    proto.graph.initializer.extend([AXES, onnx.numpy_helper.from_array(np.array(0.01, np.float32), "c")])
    path = tmp_path / "shifted.onnx"
    Model(proto).save(path)
    assert check(capture, path).verdict == "failed"
    assert check(capture, path, tolerances=parse_tolerances(["y=0.0101"])).verdict == "passed"
    assert check(capture, path, tolerances=parse_tolerances(["y=0.009"])).verdict == "failed"


@pytest.mark.parametrize("kind", ["file", "parts"])
def test_graph_optimisation_is_off(tmp_path: Path, capture: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bool] = []

    class Noted(session.Session):
        def __init__(self, *arguments: Any, optimise: bool, **named: Any) -> None:
            opened.append(optimise)
            super().__init__(*arguments, optimise=optimise, **named)

    monkeypatch.setattr(player, "Session", Noted)
    check(capture, write(tmp_path / "whole.onnx", WHOLE) if kind == "file" else write_parts(tmp_path / "parts"))
    assert opened == [False] * (1 if kind == "file" else 2)


def test_an_output_that_was_not_captured_is_an_error_that_names_what_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "whole.onnx", WHOLE)
    tensors = tensors_of(3)
    del tensors["s"]
    captured = write_capture(tmp_path / "io", {"a": tensors})
    with pytest.raises(InputError, match=r"io: sample 'a' has no 's', which .*whole.onnx writes; it has h, x, y$"):
        check(captured, path)


def test_an_input_that_was_not_captured_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "whole.onnx", WHOLE)
    tensors = tensors_of(3)
    del tensors["x"]
    with pytest.raises(InputError, match=r"has no 'x', which .*whole.onnx reads; it has h, s, y$"):
        check(path, write_capture(tmp_path / "io", {"a": tensors}))


def test_missing_and_extra_outputs_fail_and_the_others_are_compared(tmp_path: Path, capture: Path) -> None:
    both = write(tmp_path / "both.onnx", WHOLE)
    only_y = write(tmp_path / "y.onnx", f"{HEAD}\ng (float[N, 4] x) => (float[N, 4] y) {{ h = Relu (x) y = Exp (h) }}")
    missing, extra = check(both, only_y, inputs=capture), check(only_y, both, inputs=capture)
    assert {r.name: (r.verdict, r.reason.partition(":")[0]) for r in missing.tensors} == {
        "s": ("failed", "missing"),
        "y": ("passed", ""),
    }
    assert {r.name: (r.verdict, r.reason.partition(":")[0]) for r in extra.tensors} == {
        "s": ("failed", "extra"),
        "y": ("passed", ""),
    }
    assert missing.verdict == extra.verdict == "failed"


def test_two_captures_are_compared_tensor_by_tensor(tmp_path: Path) -> None:
    one = write_capture(tmp_path / "one", {"a": tensors_of(3), "b": tensors_of(3, 1)})
    same = write_capture(tmp_path / "same", {"b": tensors_of(3, 1), "a": tensors_of(3)})
    verdict = check(one, same)
    assert verdict.verdict == "passed"
    assert sorted(report.name for report in verdict.tensors) == ["h", "s", "x", "y"]
    swapped = write_capture(tmp_path / "swapped", {"a": tensors_of(3, 1), "b": tensors_of(3)})
    assert check(one, swapped).verdict == "failed"


def test_a_sample_that_only_one_capture_holds_fails(tmp_path: Path) -> None:
    one = write_capture(tmp_path / "one", {"a": tensors_of(3), "b": tensors_of(3, 1)})
    less = write_capture(tmp_path / "less", {"a": tensors_of(3)})
    for verdict in (check(one, less), check(less, one)):
        assert dict(verdict.samples) == {"a": "passed", "b": "failed"}
        assert verdict.worst is not None
        assert verdict.worst.explain().endswith(f"of sample b: the sample is missing in {less}")


def test_a_tensor_that_only_one_capture_holds_fails(tmp_path: Path) -> None:
    tensors = tensors_of(3)
    one = write_capture(tmp_path / "one", {"a": tensors})
    less = write_capture(tmp_path / "less", {"a": {name: tensors[name] for name in ("x", "y", "h")}})
    assert "s of sample a: missing" in check(one, less).explain()
    assert "s of sample a: extra" in check(less, one).explain()


def test_anything_else_is_refused_with_what_was_expected(tmp_path: Path, capture: Path) -> None:
    empty, text, absent = tmp_path / "empty", tmp_path / "notes.txt", tmp_path / "absent"
    empty.mkdir()
    text.write_text("hello", encoding="utf-8")
    expected = "give an ONNX file, a folder of parts, or a model_io folder"
    with pytest.raises(InputError, match=f"empty: holds neither manifest.json nor capture.json; {expected}"):
        check(capture, empty)
    with pytest.raises(InputError, match=f"absent: there is no such file or folder; {expected}"):
        check(absent, capture)
    with pytest.raises(ModelError, match=r"notes\.txt: not an ONNX"):
        check(capture, text)


def test_a_model_that_reads_a_sequence_is_refused(tmp_path: Path, capture: Path) -> None:
    text = f"{HEAD}\ng (seq(float[N]) x) => (int64 y) {{ y = SequenceLength (x) }}"
    with pytest.raises(ModelError, match=r"seq\.onnx: 'x' has sequence_type; inputs and outputs must be tensors"):
        check(capture, write(tmp_path / "seq.onnx", text))


def test_an_initializer_among_the_inputs_needs_no_value(tmp_path: Path, capture: Path) -> None:
    proto = model(WHOLE).proto
    proto.graph.input.append(onnx.helper.make_tensor_value_info("axes", onnx.TensorProto.INT64, [1]))
    Model(proto).save(tmp_path / "whole.onnx")
    assert check(capture, tmp_path / "whole.onnx").verdict == "passed"


def test_progress_counts_samples(tmp_path: Path, capture: Path) -> None:
    watched = Watched()
    compare_paths(capture, write(tmp_path / "whole.onnx", WHOLE), None, Tolerances(), watched)
    assert watched.begun == ["compare io and whole.onnx"]
    assert watched.progress == [(1, 3), (2, 3), (3, 3)]


def test_one_sample_at_a_time_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = {f"{index}": tensors_of(3, index) for index in range(4)}
    one, other = write_capture(tmp_path / "one", samples), write_capture(tmp_path / "other", samples)
    loaded: list[tuple[str, weakref.ref[np.ndarray]]] = []
    most = 0
    load = captures.Sample.load

    def noted(sample: captures.Sample, name: str) -> np.ndarray:
        nonlocal most
        array = load(sample, name)
        loaded.append((sample.id, weakref.ref(array)))
        most = max(most, len({owner for owner, alive in loaded if alive() is not None}))
        return array

    monkeypatch.setattr(captures.Sample, "load", noted)
    assert check(one, other).verdict == "passed"
    assert len(loaded) == 2 * 4 * 4
    assert most == 1


def test_tolerances_are_read_from_options() -> None:
    tolerances = parse_tolerances(["boxes=0.001", "features_*=rel:1e-3", "a=b:0=2", "unmatched=2"])
    assert tolerances.lookup("boxes") == Tolerance(absolute=0.001)
    assert tolerances.lookup("features_4") == Tolerance(relative=1e-3)
    assert tolerances.lookup("a=b:0") == Tolerance(absolute=2)
    assert tolerances.lookup("scores") == Tolerance(relative=1e-4)
    assert tolerances.unmatched == 2


@pytest.mark.parametrize("choice", ["boxes", "=1", "boxes=", "boxes=abc", "boxes=rel:", "boxes=r:1", "boxes=1:2"])
def test_what_is_no_tolerance_is_quoted(choice: str) -> None:
    with pytest.raises(InputError, match=f"--tolerance {choice}: write NAME=NUMBER or NAME=rel:NUMBER"):
        parse_tolerances([choice])


@pytest.mark.parametrize("choice", ["boxes=-1", "boxes=nan", "boxes=rel:inf", "unmatched=1.5", "unmatched=rel:1"])
def test_a_number_that_is_no_tolerance_is_refused(choice: str) -> None:
    name = choice.partition("=")[0]
    with pytest.raises(InputError, match=f"--tolerance: tolerance '{name}': .* (give a|no tolerance)"):
        parse_tolerances([choice])


def test_a_tolerance_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="--tolerance boxes=2: 'boxes' is given twice"):
        parse_tolerances(["boxes=1", "boxes=2"])
