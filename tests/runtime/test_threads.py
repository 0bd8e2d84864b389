"""Threads of an operator, for all parts or for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphsurgery.devices import session
from graphsurgery.errors import InputError
from graphsurgery.runtime.detector import Detector
from graphsurgery.runtime.threads import Threads
from runtime.test_detector import write_detector


def test_a_part_has_its_own_number_and_the_others_that_of_all() -> None:
    threads = Threads.parse(["2", "heads=4"])
    assert (threads.of("heads"), threads.of("backbone")) == (4, 2)
    assert Threads.parse([]).of("heads") == 0


@pytest.mark.parametrize("option", ["x", "-1", "heads=", "heads=x", "heads=-1", "99999", "²", ""])
def test_what_is_no_number_is_refused(option: str) -> None:
    with pytest.raises(InputError, match=r"--threads .*: write it as N, or PART=N"):
        Threads.parse([option])


@pytest.mark.parametrize(("options", "what"), [(["1", "2"], "the number"), (["a=1", "a=1"], "part 'a'")])
def test_a_number_is_said_once(options: list[str], what: str) -> None:
    with pytest.raises(InputError, match=f"{what} is given twice"):
        Threads.parse(options)


def test_each_session_gets_the_number_of_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_detector(tmp_path)
    seen = []
    monkeypatch.setattr(session.Session, "__init__", _noted(session.Session.__init__, seen))
    Detector.load(tmp_path, threads=Threads(1, {"heads": 3}))
    assert seen == [1, 1, 3, 1]


def test_a_part_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_detector(tmp_path)
    with pytest.raises(InputError, match=r"--threads head=1: no such part; there are backbone, .*Did you mean 'heads'"):
        Detector.load(tmp_path, threads=Threads(0, {"head": 1}))


def _noted(init: object, seen: list[int]) -> object:
    def noting(self: object, model: object, *, threads: int = 0, **how: object) -> None:
        seen.append(threads)
        init(self, model, threads=threads, **how)  # type: ignore[operator]

    return noting
