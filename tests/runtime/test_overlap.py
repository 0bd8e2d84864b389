"""Parts of successive images at the same time: the same detections, in order, and no thread left however it ends."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from graphsurgery.errors import InputError
from graphsurgery.runtime.detector import Detector
from graphsurgery.runtime.overlap import Pipelined
from runtime.test_detector import write_detector

SIZES = [(8, 12), (16, 24), (30, 20), (1, 40), (5, 100)]


def images(count: int) -> Iterator[np.ndarray]:
    """Draw images of several sizes, every seventh of them dark, so that nothing is found there."""
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (*SIZES[index % len(SIZES)], 3), dtype=np.uint8)
        yield pixels if index % 7 else pixels * 0


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    write_detector(tmp_path)
    return Detector.load(tmp_path, threads=1, spin=False)


@pytest.fixture(autouse=True)
def _leaves_no_thread() -> Iterator[None]:
    yield  # the thread that watches the time of runs stays: it serves the whole process
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("graphsurgery-")]


def interfere(detector: Detector, part: str, act: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `act` called with the number of the image before a part plays it."""
    player = next(player for player in detector.chain.players if player.entry.name == part)
    play, seen = player.play, iter(range(10**6))

    def acting(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        act(next(seen))
        return play(tensors)

    monkeypatch.setattr(player, "play", acting)


@pytest.mark.parametrize("depth", [1, 3])
def test_two_hundred_images_give_what_one_after_another_gives_bit_for_bit(detector: Detector, depth: int) -> None:
    expected = [detector(image) for image in images(200)]
    got = list(Pipelined(detector, depth).run(images(200)))
    assert len(got) == 200
    for one, other in zip(got, expected, strict=True):
        assert list(one) == list(other)
        assert all(np.array_equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)
    assert sum(len(each["boxes"]) for each in got) > 500


def test_no_image_gives_no_detections(detector: Detector) -> None:
    assert list(Pipelined(detector).run([])) == []


def test_neighbouring_parts_on_one_device_make_one_stage(detector: Detector) -> None:
    assert Pipelined(detector).stages == [["backbone"], ["proposal"], ["heads"], ["postprocess"]]
    for player in detector.chain.players:
        device = "cpu" if player.entry.name in ("proposal", "heads") else "npu"
        player.entry = player.entry.model_copy(update={"device": device})
    assert Pipelined(detector).stages == [["backbone"], ["proposal", "heads"], ["postprocess"]]


def test_a_depth_of_nothing_is_refused(detector: Detector) -> None:
    with pytest.raises(InputError, match="a pipeline of depth 0 holds no image; give 1 or more"):
        Pipelined(detector, 0)


def test_parts_of_several_images_are_played_at_the_same_time(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(4)  # breaks, and fails the test, unless four images are in four parts at once
    for part in ("backbone", "proposal", "heads", "postprocess"):
        at = 8 - [player.entry.name for player in detector.chain.players].index(part)
        interfere(detector, part, lambda image, at=at: image == at and together.wait(20), monkeypatch)
    assert len(list(Pipelined(detector).run(images(20)))) == 20


def test_no_more_images_are_read_than_there_is_room_for(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = threading.Event()
    interfere(detector, "heads", lambda _: blocked.wait(20) and None, monkeypatch)
    read = []

    def counted() -> Iterator[np.ndarray]:
        for image in images(100):
            read.append(threading.current_thread())
            yield image

    found = Pipelined(detector, 2).run(counted())
    threading.Timer(1.0, blocked.set).start()
    next(found)
    assert 4 <= len(read) <= 6 + 2 + 1
    assert set(read) == {threading.current_thread()}
    blocked.set()
    found.close()


@pytest.mark.parametrize("part", ["backbone", "heads", "postprocess"])
def test_an_error_in_a_stage_comes_after_the_images_before_it(
    detector: Detector, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(image: int) -> None:
        if image == 5:
            raise InputError("part 'x': it is on fire")

    interfere(detector, part, fail, monkeypatch)
    found: list[dict[str, np.ndarray]] = []
    with pytest.raises(InputError, match="part 'x': it is on fire"):
        found.extend(Pipelined(detector, 2).run(images(100)))
    assert len(found) == 5


def test_what_is_no_image_is_refused_with_its_own_message(detector: Detector) -> None:
    with pytest.raises(InputError, match="image: float64"):
        list(Pipelined(detector).run([next(images(1)), np.zeros((8, 12, 3))]))


def test_an_error_of_the_reader_comes_after_the_images_before_it(detector: Detector) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from images(5)
        raise InputError("image6.png: can't be read")

    found: list[dict[str, np.ndarray]] = []
    with pytest.raises(InputError, match=r"image6\.png: can't be read"):
        found.extend(Pipelined(detector).run(broken()))
    assert len(found) == 5


def test_leaving_the_loop_ends_the_threads_at_once(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    interfere(detector, "heads", lambda _: time.sleep(0.05), monkeypatch)
    found = Pipelined(detector, 3).run(images(10**6))
    next(found)
    begin = time.perf_counter()
    found.close()
    assert time.perf_counter() - begin < 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("graphsurgery-")]
    assert list(found) == []


def test_an_interrupt_of_the_reader_ends_the_threads(detector: Detector) -> None:
    def interrupted() -> Iterator[np.ndarray]:
        yield from images(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(Pipelined(detector).run(interrupted()))


def test_memory_does_not_grow_with_the_number_of_images(detector: Detector) -> None:
    large = np.full((600, 800, 3), 200, np.uint8)  # 12 masks of it take 23 MB: one that is kept would show
    pipelined = Pipelined(detector, 2)

    def used(count: int) -> int:
        for _ in pipelined.run(large for _ in range(count)):
            pass
        gc.collect()
        return tracemalloc.get_traced_memory()[0]  # arrays too; resident memory is benchmarks/runtime.py's

    tracemalloc.start()
    try:
        before = used(10)
        assert used(20) - before < 20 << 20
    finally:
        tracemalloc.stop()


def test_what_is_made_of_the_detections_is_a_stage_of_its_own_in_order(detector: Detector) -> None:
    threads = set()

    def write(number: int, found: dict[str, np.ndarray]) -> tuple[int, int]:
        threads.add(threading.current_thread())
        return number, len(found["boxes"])

    pictures = list(images(30))
    got = list(Pipelined(detector).through(range(30), pictures.__getitem__, write))
    assert got == [(number, len(detector(picture)["boxes"])) for number, picture in enumerate(pictures)]
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_the_last_stage_is_never_left_in_the_midst_of_an_image(detector: Detector) -> None:
    begun, ended, go = threading.Event(), [], threading.Event()

    def write(number: int, found: dict[str, np.ndarray]) -> None:
        if number == 1:
            begun.set()
            go.wait(20)
        ended.append(number)

    made = Pipelined(detector).through(range(1000), lambda number: next(images(1)), write)
    next(made)
    assert begun.wait(20)
    threading.Timer(0.1, go.set).start()
    made.close()
    assert ended == [0, 1]


def test_what_has_come_out_is_handed_over_before_more_is_read(detector: Detector) -> None:
    written = threading.Semaphore(0)
    read = []

    def slow() -> Iterator[int]:
        for number in range(6):
            read.append(number)
            if number:  # as a camera that gives one only now and then
                assert written.acquire(timeout=20)
            yield number

    def write(number: int, found: dict[str, np.ndarray]) -> int:
        written.release()
        return number

    made = Pipelined(detector, 3).through(slow(), lambda number: next(images(1)), write)
    assert next(made) == 0
    assert len(read) <= 3
    assert list(made) == [1, 2, 3, 4, 5]
