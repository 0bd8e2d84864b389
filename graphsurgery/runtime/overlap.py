"""Lets the parts of successive images overlap: while one is in the box head, the next is in the backbone.

    for detections in Pipelined(detector, depth=2).run(images):     # in the order of the images
        ...

    images -> [place] -> [backbone_rpn: npu] -> [box_proposal: cpu] -> ... -> [restore] -> detections

What is done with them, such as drawing, can be a stage too (`through`). Each stage is a thread that hands on through a
queue of at most `depth` images, and no more images are on their way than there are stages, and `depth` besides: a slow
stage holds up those before it, and neither memory nor latency grows. Neighbouring parts on one device make one stage:
they would only take turns. Parts on one device that do not follow each other are stages of their own, since the device
is free for the next image whenever another part works on this one; who comes first there is left to the provider, or to
the operating system for the CPU.

Images are read in the caller's thread, each when there is room for it and nothing has come out. An error in a stage
comes to the caller in the place of that image's detections, and ends the run; so does leaving the loop, or Ctrl-C. Then
what is on its way is dropped, and every thread has ended before the caller goes on.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from queue import Empty, Full, Queue
from typing import Any, TypeVar

import numpy as np

from graphsurgery.errors import InputError
from graphsurgery.images.canvas import CanvasImage
from graphsurgery.runtime.detector import Detector

Detections = dict[str, np.ndarray]
Item = TypeVar("Item")
Result = TypeVar("Result")

_POLL = 0.2  # seconds; on Windows a wait without end can't be interrupted


@dataclass(frozen=True)
class Pipelined:
    """A detector whose stages work at the same time, with queues of `depth` images between them.

    Its parts' times then hold the waiting for a processor, too. Raises InputError for a depth below 1. Load the
    detector with `spin=False`: a stage without work must leave the processor to the others.
    """

    detector: Detector
    depth: int = 1

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise InputError(f"a pipeline of depth {self.depth} holds no image; give 1 or more")

    @property
    def stages(self) -> list[list[str]]:
        """The parts in each stage, by name; images are placed before the first and results restored after the last."""
        names = [player.entry.name for player in self.detector.chain.players]
        return [[names[index] for index in stage] for stage in self._parts()]

    def run(self, images: Iterable[np.ndarray]) -> Generator[Detections, None, None]:
        """Yield the detections of each image, uint8 [h, w, 3], as `Detector` gives them, in the same order."""
        return self._line(_itself, []).run(images)

    def through(
        self, items: Iterable[Item], pixels: Callable[[Item], np.ndarray], then: Callable[[Item, Detections], Result]
    ) -> Generator[Result, None, None]:
        """Yield what `then` makes of each item and the detections in its `pixels`, uint8 [h, w, 3], in their order.

        It is called in a thread of its own, with one after another, and is never left in the midst of one.
        """
        return self._line(pixels, [lambda image: then(image.item, image.found)]).run(items)

    def _line(self, pixels: Callable[[Any], np.ndarray], then: list[Callable[[_OnItsWay], Any]]) -> _Line:
        def place(item: Any) -> _OnItsWay:
            placed = self.detector.place(pixels(item))
            return _OnItsWay(item if then else None, placed, self.detector.inputs(placed))

        last = [self._restored, *then] if then else [lambda image: self._restored(image).found]
        return _Line([place, *(self._player(stage) for stage in self._parts()), *last], self.depth)

    def _parts(self) -> list[list[int]]:
        players = self.detector.chain.players
        return [list(stage) for _, stage in groupby(range(len(players)), lambda index: players[index].entry.device)]

    def _player(self, stage: list[int]) -> Callable[[_OnItsWay], _OnItsWay]:
        def play(image: _OnItsWay) -> _OnItsWay:
            for index in stage:
                self.detector.chain.play_part(index, image.tensors)
            return image

        return play

    def _restored(self, image: _OnItsWay) -> _OnItsWay:
        outputs = self.detector.outputs(image.tensors)
        image.found = image.placed.restore(self.detector.detections(outputs, image.placed))
        return image


@dataclass
class _OnItsWay:
    item: Any
    placed: CanvasImage
    tensors: dict[str, np.ndarray]
    found: Detections = field(default_factory=dict)


def _itself(image: np.ndarray) -> np.ndarray:
    return image


@dataclass(frozen=True)
class _Failed:
    error: BaseException


@dataclass
class _Line:
    """Threads in a row, each with a queue before it; what the last of them gives comes out."""

    works: list[Callable[[Any], Any]]
    depth: int
    _stopped: threading.Event = field(default_factory=threading.Event)
    _moved: threading.Event = field(default_factory=threading.Event)

    def run(self, items: Iterable[Any]) -> Generator[Any, None, None]:
        queues: list[Queue[Any]] = [Queue(self.depth) for _ in range(len(self.works) + 1)]
        threads = [
            # a generator that nobody closes must not keep the interpreter from ending
            threading.Thread(target=self._work, args=(work, source, target), name=f"graphsurgery-{n}", daemon=True)
            for n, (work, source, target) in enumerate(zip(self.works, queues, queues[1:], strict=False))
        ]
        started = []
        try:
            for thread in threads:
                thread.start()
                started.append(thread)
            yield from self._through(iter(items), queues[0], queues[-1])
        finally:
            self._stopped.set()
            for queue in queues:  # those who wait look up
                with contextlib.suppress(Full):
                    queue.put_nowait(None)
            for thread in started:
                thread.join()

    def _through(self, items: Iterator[Any], first: Queue[Any], last: Queue[Any]) -> Iterator[Any]:
        inside, failure, more = 0, None, True
        while more or inside:
            try:
                done = last.get_nowait()
            except Empty:
                if more and inside < len(self.works) + self.depth and not first.full():  # nobody else fills it
                    try:
                        first.put_nowait(next(items))
                        inside += 1
                    except StopIteration:
                        more = False
                    except Exception as error:  # of who reads the images: those before it come first
                        failure, more = error, False
                else:
                    self._moved.wait(_POLL)
                    self._moved.clear()
                continue
            inside -= 1
            if isinstance(done, _Failed):
                raise done.error
            yield done
            del done
        if failure is not None:
            raise failure

    def _work(self, work: Callable[[Any], Any], source: Queue[Any], target: Queue[Any]) -> None:
        while not self._stopped.is_set():
            try:
                item = source.get(timeout=_POLL)
            except Empty:
                continue
            self._moved.set()
            if self._stopped.is_set():
                break
            if not isinstance(item, _Failed):
                try:
                    item = work(item)
                except BaseException as error:
                    item = _Failed(error)
            while not self._stopped.is_set():
                with contextlib.suppress(Full):
                    target.put(item, timeout=_POLL)
                    break
            del item  # its tensors are the next stage's to let go
            self._moved.set()
