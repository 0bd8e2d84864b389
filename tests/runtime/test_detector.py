"""Parts played one after another: slices of a frozen batch, and a whole detector made by hand."""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphsurgery.devices.providers import DeviceChoice
from graphsurgery.errors import InputError, MissingTool, ModelError
from graphsurgery.graph.joined_outputs import JoinedOutput
from graphsurgery.graph.model import Model
from graphsurgery.images.canvas import Canvas
from graphsurgery.images.pasting import paste_masks
from graphsurgery.parts.describe import describe_part, describe_parts
from graphsurgery.parts.manifest import FILE_NAME, Manifest, PartEntry, Tensor
from graphsurgery.parts.part import Part
from graphsurgery.rewrite import BATCH_NOTE, NORMALISATION_NOTE
from graphsurgery.runtime.detector import Detector
from graphsurgery.runtime.overlap import Pipelined
from graphsurgery.runtime.player import Chain, PartPlayer
from graphsurgery.runtime.timer import Timer
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
CPU = ["CPUExecutionProvider"]
TWICE = f"""
    {HEAD}
    g (float[3, 2] a) => (float[3, 2] b, float[3] c) {{
        b = Add (a, a)
        c = ReduceMax <axes = [1], keepdims = 0> (b)
    }}"""
SUM = f"{HEAD}\ng (float[3, 2] a, float[3, 2] b) => (float[3, 2] c) {{ c = Add (a, b) }}"

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.5)
CANVAS = Canvas(8, 12)
# A detector that finds one object in each bright column of the image's first row, 1 pixel wide and 4 high.
BACKBONE = f"""
    {HEAD}
    g (float[1, 3, 8, 12] input_backbone) => (float[1, 3, 8, 12] features) {{ features = Relu (input_backbone) }}"""
PROPOSAL = f"""
    {HEAD}
    g (float[1, 3, 8, 12] features) => (float[N, 4] proposals) {{
        i = Constant <value_int = 0> ()
        zero = Constant <value_float = 0.0> ()
        one = Constant <value_float = 1.0> ()
        four = Constant <value_float = 4.0> ()
        image = Gather <axis = 0> (features, i)
        red = Gather <axis = 0> (image, i)
        row = Gather <axis = 0> (red, i)
        bright = Greater (row, zero)
        at = NonZero (bright)
        column = Transpose (at)
        x0 = Cast <to = 1> (column)
        x1 = Add (x0, one)
        y0 = Mul (x0, zero)
        y1 = Add (y0, four)
        proposals = Concat <axis = 1> (x0, y0, x1, y1)
    }}"""
HEADS = f"""
    {HEAD}
    g (float[5, 4] proposals) => (float[5, 1] class_logits, float[5, 1, 2, 2] mask_logits) {{
        weight = Constant <value = float[4, 1] {{-0.1, 0.0, 0.0, 0.5}}> ()
        shape = Constant <value_ints = [5, 1, 2, 2]> ()
        class_logits = MatMul (proposals, weight)
        mask_logits = Reshape (proposals, shape)
    }}"""
POSTPROCESS = f"""
    {HEAD}
    g (float[N, 4] proposals, float[N, 1] class_logits, float[N, 1, 2, 2] mask_logits)
        => (float[N, 4] boxes, int64[N] labels, float[N] scores, float[N, 1, 2, 2] masks) {{
        axis = Constant <value_ints = [1]> ()
        logits = Squeeze (class_logits, axis)
        boxes = Identity (proposals)
        scores = Sigmoid (logits)
        up = Ceil (scores)
        labels = Cast <to = 7> (up)
        masks = Sigmoid (mask_logits)
    }}"""
OUTPUTS = ["boxes", "labels", "scores", "masks"]


def part(name: str, text: str, device: str = "cpu", **notes: object) -> Part:
    proto = parse(text)
    for key, note in notes.items():
        proto.metadata_props.add(key=f"graphsurgery.{key}", value=json.dumps(note))
    return Part(name, device, device != "cpu", Model(proto))


def player(text: str, size: int | None = None, name: str = "head") -> PartPlayer:
    one = part(name, text, batch={"size": size}) if size else part(name, text)
    return PartPlayer.open(one.model.proto, describe_part(one), optimise=False)


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 2)).astype(np.float32)


def write_detector(folder: Path) -> Manifest:
    parts = [
        part("backbone", BACKBONE, "npu", normalisation={"mean": MEAN, "std": STD}),
        part("proposal", PROPOSAL),
        part("heads", HEADS, "npu", batch={"size": 5}),
        part("postprocess", POSTPROCESS),
    ]
    manifest = describe_parts(parts, "columns", {"kind": "test"}, CANVAS, ["input_backbone"], OUTPUTS)
    folder.mkdir(exist_ok=True)
    for each in parts:
        each.model.save(folder / f"{each.name}.onnx")
    (folder / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    change(content)
    (folder / FILE_NAME).write_text(json.dumps(content), encoding="utf-8")


def test_the_notes_that_the_tests_write_are_those_that_passes_leave() -> None:
    assert (BATCH_NOTE, NORMALISATION_NOTE) == ("graphsurgery.batch", "graphsurgery.normalisation")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 6, 7])
def test_any_number_of_rows_goes_through_a_frozen_batch(count: int) -> None:
    got = player(TWICE, 3).play({"a": rows(count)})
    assert list(got) == ["b", "c"]
    np.testing.assert_array_equal(got["b"], rows(count) * 2)
    np.testing.assert_array_equal(got["c"], (rows(count) * 2).max(1) if count else np.zeros(0))
    assert all(value.dtype == np.float32 for value in got.values())


@pytest.mark.parametrize(("count", "runs"), [(0, 0), (2, 1), (3, 1), (7, 3)])
def test_a_session_with_a_frozen_batch_only_sees_full_batches(
    count: int, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = player(TWICE, 3)
    seen: list[np.ndarray] = []
    run = one.session.run

    def noted(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(inputs["a"])
        return run(inputs)

    monkeypatch.setattr(one.session, "run", noted)
    one.play({"a": rows(count)})
    assert [given.shape for given in seen] == [(3, 2)] * runs
    filled = np.concatenate([*seen, np.zeros((0, 2))])
    np.testing.assert_array_equal(filled[:count], rows(count))
    assert not filled[count:].any()


def test_inputs_of_a_frozen_batch_are_sliced_together() -> None:
    got = player(SUM, 3).play({"a": rows(7), "b": rows(7, 1), "unrelated": rows(1)})
    np.testing.assert_array_equal(got["c"], rows(7) + rows(7, 1))


SCALED = f"""
    {HEAD}
    g (float[3, 2] a, float[2, 4] p) => (float[3, 4] c, float[2, 4] d) {{ c = MatMul (a, p) d = Neg (p) }}"""


@pytest.mark.parametrize("count", [0, 2, 3, 7])
@pytest.mark.parametrize("parameter", ["p", "p and what is computed from it"])
def test_what_has_no_rows_is_given_and_taken_whole(count: int, parameter: str) -> None:
    text = SCALED if parameter != "p" else SCALED.replace(", float[2, 4] d", "").replace("d = Neg (p)", "")
    one = part("head", text, batch={"size": 3, "parameters": ["p"]})
    entry = describe_part(one)
    assert entry.batch is not None
    entry = entry.model_copy(update={"batch": entry.batch.model_copy(update={"outputs": ["c"]})})
    p = np.arange(8, dtype=np.float32).reshape(2, 4)
    got = PartPlayer.open(one.model.proto, entry, optimise=False).play({"a": rows(count), "p": p})
    np.testing.assert_allclose(got["c"], rows(count) @ p, rtol=1e-5, atol=1e-6)
    if parameter != "p":
        np.testing.assert_array_equal(got["d"], -p)


@pytest.mark.parametrize("b", [rows(6), rows(0), np.zeros((), np.float32)])
def test_inputs_of_a_frozen_batch_must_have_equally_many_rows(b: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"part 'head': its inputs must have equally many rows, but are a \[7, 2\], b"):
        player(SUM, 3).play({"a": rows(7), "b": b})


def test_a_missing_input_is_named() -> None:
    for size in (None, 3):
        with pytest.raises(InputError, match="part 'head': input 'b' is not given"):
            player(SUM, size).play({"a": rows(3)})


def test_no_rows_need_a_known_shape() -> None:
    text = TWICE.replace("float[3] c", "float[3] c, float[3, K] d").replace(
        "b = Add (a, a)", "b = Add (a, a) d = Add (b, a)"
    )
    with pytest.raises(InputError, match="part 'head': the shape of its output 'd' is not known"):
        player(text, 3).play({"a": rows(0)})


def test_a_part_that_is_not_what_its_entry_says_is_refused() -> None:
    entry = describe_part(part("head", SUM))
    with pytest.raises(ModelError, match="part 'head': has inputs a, but the manifest says a, b"):
        PartPlayer.open(parse(TWICE), entry, optimise=False)
    with pytest.raises(ModelError, match="part 'head': has outputs b, c, but the manifest says c"):
        PartPlayer.open(parse(TWICE), entry.model_copy(update={"inputs": {"a": entry.inputs["a"]}}), optimise=False)


def test_rows_that_fill_up_a_batch_hold_nothing_of_a_run_before(monkeypatch: pytest.MonkeyPatch) -> None:
    one = player(TWICE.replace("[3", "[5"), 5)
    run, seen = one.session.run, []

    def noted(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append((inputs["a"], inputs["a"].copy()))
        return run(inputs)

    monkeypatch.setattr(one.session, "run", noted)
    for count in (4, 2, 3, 1, 4, 1):
        seen.clear()
        got = one.play({"a": rows(count, count)})
        ((memory, given),) = seen
        np.testing.assert_array_equal(given[:count], rows(count, count))
        assert not given[count:].any()
        np.testing.assert_array_equal(got["b"], rows(count, count) * 2)
        assert memory is one._padded["a"]._memory  # the same for every run


def test_results_of_a_padded_run_outlive_the_next() -> None:
    one = player(TWICE.replace("[3", "[5"), 5)
    first = one.play({"a": rows(2)})
    one.play({"a": rows(4, 1)})
    np.testing.assert_array_equal(first["b"], rows(2) * 2)


def test_inputs_of_other_sizes_and_types_fill_up_a_batch_in_turn() -> None:
    text = TWICE.replace("float[3, 2]", "float[3, K]")
    one = player(text, 3)
    for width in (2, 5, 2):
        given = np.arange(2 * width, dtype=np.float32).reshape(2, width)
        np.testing.assert_array_equal(one.play({"a": given})["b"], given * 2)
    with pytest.raises(InputError, match="part 'head': ONNX Runtime can't run it"):
        one.play({"a": np.zeros((2, 2))})
    np.testing.assert_array_equal(one.play({"a": rows(2)})["b"], rows(2) * 2)


def test_two_threads_can_play_a_padded_part() -> None:
    one = player(TWICE.replace("[3", "[5"), 5)
    wrong = []

    def play(seed: int) -> None:
        for turn in range(200):
            given = rows(1 + (seed + turn) % 4, seed)
            if not np.array_equal(one.play({"a": given})["b"], given * 2):
                wrong.append(seed)

    threads = [threading.Thread(target=play, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_no_tensor_is_copied_on_its_way_from_part_to_part() -> None:
    large = np.ones((16, 1 << 20), np.float32)  # 64 MB
    takes = f"{HEAD}\ng (float[16, N] a) => (int64[2] shape) {{ shape = Shape (a) }}"
    session = player(takes, name="takes").session

    def quickest(act: Callable[[], object]) -> float:
        def seconds() -> float:
            begin = time.perf_counter()
            act()
            return time.perf_counter() - begin

        return min(seconds() for _ in range(10))

    assert quickest(lambda: session.run({"a": large})) < 0.1 * quickest(large.copy)
    gives = player(f"{HEAD}\ng (float[2] a) => (float[2] b) {{ b = Neg (a) }}", name="gives").session
    assert not gives.run({"a": np.ones(2, np.float32)})["b"].flags.owndata


def test_time_adds_up() -> None:
    one = player(TWICE)
    one.play({"a": rows(3)})
    first = one.seconds
    one.play({"a": rows(3)})
    assert 0 < first < one.seconds


def test_a_timer_tells_mean_and_percentiles_in_milliseconds() -> None:
    timer = Timer()
    assert timer.summary() == {}
    for milliseconds in range(1, 12):
        timer.add(milliseconds / 1000)
    assert timer.summary() == pytest.approx({"mean_ms": 6, "p50_ms": 6, "p90_ms": 10})
    assert timer.seconds == pytest.approx(0.066)
    timer.reset()
    assert (timer.seconds, timer.summary()) == (0, {})


def test_a_timer_keeps_the_last_thousand_runs() -> None:
    timer = Timer()
    for seconds in [5.0] * 500 + [1.0] * 1000:
        timer.add(seconds)
    assert timer.summary()["mean_ms"] == pytest.approx(1000)
    assert timer.seconds == pytest.approx(3500)


class Tracked:
    """A session that hands out fresh tensors and notes which earlier ones are alive when it runs."""

    def __init__(self, outputs: list[str], alive: dict[str, weakref.ref[np.ndarray]], log: list[set[str]]) -> None:
        self.outputs, self.alive, self.log = outputs, alive, log

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.log.append({name for name, tensor in self.alive.items() if tensor() is not None})
        made = {name: np.zeros(1) for name in self.outputs}
        self.alive.update({name: weakref.ref(value) for name, value in made.items()})
        return made


def test_a_tensor_is_let_go_after_its_last_reader() -> None:
    wiring = [("x", "a unread"), ("a", "b"), ("a b", "c end"), ("c", "d"), ("d", "last")]
    alive: dict[str, weakref.ref[np.ndarray]] = {}
    log: list[set[str]] = []
    players = []
    for index, (reads, writes) in enumerate(wiring):
        inputs, outputs = ({n: Tensor(shape=[1], dtype="float64") for n in names.split()} for names in (reads, writes))
        entry = PartEntry(
            name=f"p{index}", device="cpu", accelerator=False, file="", batch=None, inputs=inputs, outputs=outputs
        )
        players.append(PartPlayer(entry, Tracked(writes.split(), alive, log)))  # type: ignore[arg-type]
    got = Chain(tuple(players), ("end", "last")).play({"x": np.zeros(1)})
    assert log == [set(), {"a"}, {"a", "b"}, {"c", "end"}, {"d", "end"}]
    assert list(got) == ["end", "last"]


def test_a_chain_can_hand_through_an_input_and_an_inner_tensor() -> None:
    one, other = player(TWICE), player(SUM.replace("c", "d"))
    got = Chain((one, other), ("d", "b", "a")).play({"a": rows(3)})
    np.testing.assert_allclose(got["d"], rows(3) * 3, rtol=1e-6)
    np.testing.assert_array_equal(got["b"], rows(3) * 2)
    np.testing.assert_array_equal(got["a"], rows(3))


@pytest.mark.parametrize("size", [(8, 12), (16, 24), (30, 20), (1, 40), (40, 1), (1, 1), (5, 100)])
def test_a_detector_maps_what_it_finds_back_to_an_image_of_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    write_detector(tmp_path)
    found = Detector.load(tmp_path)(np.full((*size, 3), 255, np.uint8))

    placed = CANVAS.fit(np.full((*size, 3), 255, np.uint8))
    columns = np.arange(placed.width, dtype=np.float32)
    ratio_x, ratio_y = size[1] / placed.width, size[0] / placed.height
    expected = [columns * ratio_x, columns * 0, (columns + 1) * ratio_x, columns * 0 + 4 * ratio_y]
    np.testing.assert_allclose(found["boxes"], np.stack(expected, 1), rtol=1e-6)
    np.testing.assert_allclose(found["scores"], 1 / (1 + np.exp(0.1 * columns - 2)), rtol=1e-6)
    np.testing.assert_array_equal(found["labels"], np.ones(placed.width, np.int64))
    on_canvas = np.stack([columns, columns * 0, columns + 1, columns * 0 + 4], 1).reshape(-1, 1, 2, 2)
    masks = list(paste_masks((1 / (1 + np.exp(-on_canvas))), found["boxes"], size))
    np.testing.assert_allclose(found["masks"][:, 0], np.stack(masks), atol=1e-6)
    assert found["masks"].max() > 0.3


PASTED = f"""
    {HEAD}
    g (float[3, 8, 12] input) => (float[2, 4] boxes, int64[2] labels, float[2] scores, float[2, 1, H, W] masks) {{
        boxes = Constant <value = float[2, 4] {{0, 0, 6, 8, 6, 0, 12, 8}}> ()
        labels = Constant <value_ints = [1, 1]> ()
        scores = Constant <value_floats = [0.9, 0.8]> ()
        red, green, rest = Split <axis = 0> (input)
        other = Sub (red, red)
        both = Concat <axis = 0> (red, other)
        shape = Constant <value_ints = [2, 1, 8, 12]> ()
        masks = Reshape (both, shape)
    }}"""


@pytest.mark.parametrize("shape", ["float[2, 1, 8, 12] masks", "float[2, 1, H, W] masks", "float masks"])
@pytest.mark.parametrize("size", [(8, 12), (16, 24), (16, 12)])
def test_masks_that_the_graph_pastes_on_the_canvas_are_restored(
    tmp_path: Path, shape: str, size: tuple[int, int]
) -> None:
    one = part("all", PASTED.replace("float[2, 1, H, W] masks", shape))
    if shape == "float masks":
        one.model.proto.graph.output[3].type.tensor_type.ClearField("shape")
    one.model.save(tmp_path / "all.onnx")
    manifest = describe_parts([one], "test", {}, CANVAS, ["input"], OUTPUTS)
    (tmp_path / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    image = np.zeros((*size, 3), np.uint8)
    image[:, : size[1] // 2] = 255
    masks = Detector.load(tmp_path)(image)["masks"]
    assert masks.shape == (2, 1, *size)
    np.testing.assert_array_equal(masks[0, 0] > 0.5, image[..., 0] > 127)
    assert not masks[1].any()


def test_a_detector_finds_nothing_in_a_dark_image(tmp_path: Path) -> None:
    write_detector(tmp_path)
    found = Detector.load(tmp_path)(np.zeros((20, 30, 3), np.uint8))
    shapes = {name: (value.shape, value.dtype.name) for name, value in found.items()}
    assert shapes == {
        "boxes": ((0, 4), "float32"),
        "labels": ((0,), "int64"),
        "scores": ((0,), "float32"),
        "masks": ((0, 1, 20, 30), "float32"),
    }


def test_a_detector_normalises_with_the_mean_and_std_of_the_preprocessing_that_was_dropped(tmp_path: Path) -> None:
    write_detector(tmp_path)
    detector = Detector.load(tmp_path)
    assert (detector.canvas.mean, detector.canvas.std) == (MEAN, STD)
    at_the_mean = np.full((8, 12, 3), 128, np.uint8)  # 0.502 where the mean of red is 0.5
    assert len(detector(at_the_mean)["boxes"]) == 12
    assert len(detector(at_the_mean - 1)["boxes"]) == 0


@pytest.mark.parametrize("shape", ["[3, 8, 12]", "[1, 3, 8, 12]"])
def test_a_graph_with_its_own_preprocessing_gets_the_canvas_as_it_is(tmp_path: Path, shape: str) -> None:
    text = f"""
        {HEAD}
        g (float{shape} input) => (float[2, 4] boxes) {{
            one = Constant <value_ints = [-1]> ()
            four = Constant <value_ints = [2, 4]> ()
            start = Constant <value_ints = [0]> ()
            end = Constant <value_ints = [8]> ()
            flat = Reshape (input, one)
            first = Slice (flat, start, end)
            boxes = Reshape (first, four)
        }}"""
    one = part("all", text)
    one.model.save(tmp_path / "all.onnx")
    manifest = describe_parts([one], "test", {}, CANVAS, ["input"], ["boxes"])
    (tmp_path / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    found = Detector.load(tmp_path)(image)
    np.testing.assert_allclose(found["boxes"].ravel(), image[0, :8, 0] / np.float32(255), rtol=1e-6)


IN_PIECES = f"""
    {HEAD}
    g (float[1, 3, 8, 12] input) => (float[1, 4, 2] boxes, float[1, 2, 2] scores)
    <float[1, 4, 2] places = {{1, 2, 1, 2, 5, 6, 6, 7}}, float[1, 2, 2] sure = {{0.9, 0.1, 0.2, 0.8}}> {{
        dark = ReduceMin <keepdims = 0> (input)
        boxes = Sub (places, dark)
        scores = Sub (sure, dark)
    }}"""


def test_outputs_in_pieces_are_joined_before_detections_are_read(tmp_path: Path) -> None:
    """`tensor` is not named: without the join boxes would be read out of the first piece, and scores too."""
    one = part("all", IN_PIECES)
    one.model.save(tmp_path / "all.onnx")
    columns = {"axis": 1, "columns": [0, 4]}, {"axis": 1, "columns": [4]}
    source = {"detections": {"boxes": columns[0], "scores": columns[1]}}
    joins = [JoinedOutput("y", ("boxes", "scores"), 1)]
    manifest = describe_parts([one], "test", source, CANVAS, ["input"], ["boxes", "scores"], joins=joins)
    (tmp_path / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    image = np.zeros((8, 12, 3), np.uint8)
    detector = Detector.load(tmp_path)
    assert {name: value.shape for name, value in detector.raw(image).items()} == {"y": (1, 6, 2)}
    found = detector(image)
    np.testing.assert_allclose(found["boxes"][:2], [[1, 1, 5, 6], [2, 2, 6, 7]])
    assert found["labels"][:2].tolist() == [0, 1]
    np.testing.assert_allclose(found["scores"][:2], [0.9, 0.8])
    (again,) = Pipelined(detector, 1).run([image])
    np.testing.assert_array_equal(again["boxes"], found["boxes"])


def test_parts_that_find_no_boxes_are_no_detector(tmp_path: Path) -> None:
    one = part("all", TWICE)
    one.model.save(tmp_path / "all.onnx")
    manifest = describe_parts([one], "test", {}, CANVAS, ["a"], ["b", "c"])
    (tmp_path / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    image = np.zeros((8, 12, 3), np.uint8)
    with pytest.raises(InputError, match=r"no boxes: detections in the recipe says .*; b \[3, 2\], c \[3\] look"):
        Detector.load(tmp_path)(image)


def test_a_detector_refuses_what_is_no_image(tmp_path: Path) -> None:
    write_detector(tmp_path)
    with pytest.raises(InputError, match="image: float64"):
        Detector.load(tmp_path)(np.zeros((8, 12, 3)))


def test_a_detector_times_each_part(tmp_path: Path) -> None:
    write_detector(tmp_path)
    detector = Detector.load(tmp_path)
    assert detector.seconds == {"backbone": 0, "proposal": 0, "heads": 0, "postprocess": 0}
    detector(np.full((8, 12, 3), 255, np.uint8))
    assert all(seconds > 0 for seconds in detector.seconds.values())


def test_a_warm_up_does_not_count(tmp_path: Path) -> None:
    write_detector(tmp_path)
    detector = Detector.load(tmp_path)
    detector.warm_up(np.full((8, 12, 3), 255, np.uint8), 2)
    assert set(detector.seconds.values()) == {0}


def test_threads_can_be_told_to_sleep_while_another_part_works(tmp_path: Path) -> None:
    write_detector(tmp_path)
    for spin, entry in ((True, None), (False, "0")):
        session = Detector.load(tmp_path, spin=spin, threads=1).chain.players[0].session._session
        options = session.get_session_options()
        assert options.intra_op_num_threads == 1
        if entry is None:
            with pytest.raises(RuntimeError, match="allow_spinning"):
                options.get_session_config_entry("session.intra_op.allow_spinning")
        else:
            assert options.get_session_config_entry("session.intra_op.allow_spinning") == entry


@pytest.mark.usefixtures("cpu_alone")
def test_a_detector_goes_to_the_devices_that_its_manifest_names(tmp_path: Path) -> None:
    write_detector(tmp_path)
    change_manifest(tmp_path, lambda content: content.update(devices={"npu": "vitisai"}))
    with pytest.raises(MissingTool, match="device npu=vitisai"):
        Detector.load(tmp_path)
    detector = Detector.load(tmp_path, {"npu": DeviceChoice("cpu")})
    assert detector.devices == {"npu": DeviceChoice("cpu"), "cpu": DeviceChoice("cpu")}


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json: can't be read \(.*\); give a folder that 'apply' wrote"):
        Detector.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "\udcff"])
def test_a_broken_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"manifest\.json: (can't be read|not a manifest of this version: \w+)"):
        Detector.load(tmp_path)


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    write_detector(tmp_path)
    change_manifest(tmp_path, lambda content: content.update(format=2))
    with pytest.raises(InputError, match=r"manifest\.json: not a manifest of this version: format: "):
        Detector.load(tmp_path)


@pytest.mark.parametrize(
    "file", ["../heads.onnx", "sub/heads.onnx", "..\\heads.onnx", "C:heads.onnx", "/heads.onnx", "heads"]
)
def test_a_part_beside_another_folder_is_refused(tmp_path: Path, file: str) -> None:
    write_detector(tmp_path)
    change_manifest(tmp_path, lambda content: content["parts"][2].update(file=file))
    with pytest.raises(InputError, match=r"manifest\.json: part 'heads' has the file '.*', which is not beside it"):
        Detector.load(tmp_path)


def test_a_missing_part_is_refused(tmp_path: Path) -> None:
    write_detector(tmp_path)
    (tmp_path / "heads.onnx").unlink()
    with pytest.raises(ModelError, match=r"heads\.onnx: can't be read"):
        Detector.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 100])
def test_a_corrupt_part_is_refused(tmp_path: Path, keep: int) -> None:
    write_detector(tmp_path)
    path = tmp_path / "heads.onnx"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"heads\.onnx: not an ONNX"):
        Detector.load(tmp_path)


def test_a_part_that_onnxruntime_refuses_is_named(tmp_path: Path) -> None:
    write_detector(tmp_path)
    Model(parse(HEADS.replace("MatMul", "MatMulNot"))).save(tmp_path / "heads.onnx")
    with pytest.raises(ModelError, match=r"part 'heads': node .*\(MatMulNot\): nobody defines .*Nearest: MatMul,"):
        Detector.load(tmp_path)


def test_parts_that_were_swapped_are_refused(tmp_path: Path) -> None:
    write_detector(tmp_path)
    (tmp_path / "postprocess.onnx").replace(tmp_path / "heads.onnx")
    with pytest.raises(ModelError, match="part 'heads': has inputs proposals, class_logits, mask_logits, but the"):
        Detector.load(tmp_path)


def test_a_device_that_no_part_is_on_is_refused(tmp_path: Path) -> None:
    write_detector(tmp_path)
    with pytest.raises(InputError, match="no part is on device 'gpu'; the parts are on cpu, npu"):
        Detector.load(tmp_path, {"gpu": DeviceChoice("cuda")})


@pytest.mark.usefixtures("cpu_alone")
def test_a_provider_that_is_not_here_is_a_missing_tool(tmp_path: Path) -> None:
    write_detector(tmp_path)
    with pytest.raises(
        MissingTool, match="device npu=vitisai: this ONNX Runtime has no VitisAIExecutionProvider; comes"
    ):
        Detector.load(tmp_path, {"npu": DeviceChoice("vitisai")})


def test_a_device_can_be_put_on_the_cpu_by_name(tmp_path: Path) -> None:
    write_detector(tmp_path)
    detector = Detector.load(tmp_path, {"npu": DeviceChoice("cpu")}, threads=1)
    assert len(detector(np.full((8, 12, 3), 255, np.uint8))["boxes"]) == 12
