import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from graphsurgery.devices import time_limit
from graphsurgery.devices.session import Session
from graphsurgery.errors import InputError
from graphsurgery.testing import parse

ENDLESS = parse(
    """<ir_version: 8, opset_import: ["": 17]> g (float[2] x, int64 n, bool c) => (float[2] y) {
        y = Loop (n, c, x) <body = b (int64 i, bool d, float[2] a) => (bool e, float[2] s) {
            e = Identity (d)  s = Neg (a) }> }"""
)


@pytest.fixture(autouse=True)
def nobody_else_hears_signals() -> Iterator[None]:
    """Where asyncio is told of them, as after a test of a cluster, or another test left a handler, runs go on."""
    signal.set_wakeup_fd(-1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def given(rounds: int) -> dict[str, np.ndarray]:
    return {"x": np.ones(2, np.float32), "n": np.array(rounds), "c": np.array(True)}


def test_a_loop_without_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(time_limit.TIME_LIMIT, "0.5")
    session = Session(ENDLESS, name="part 'p'")
    with pytest.raises(
        InputError,
        match=r"part 'p': .* it takes longer than 0\.5 s, maybe in a Loop without an end; .*--time-limit SECONDS",
    ):
        session.run(given(1 << 62))
    assert session.run(given(3))["y"].tolist() == [-1, -1]  # and the next run is a new one
    assert not time_limit._ends


def test_a_loop_that_may_have_no_end_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "DEFAULT_TIME_LIMIT_OF_LOOPS", 0.5)
    with pytest.raises(InputError, match=r"it takes longer than 0\.5 s"):
        Session(ENDLESS).run(given(1 << 62))
    assert time_limit.time_limit() == 600


def test_runs_in_several_threads_end_each_by_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(time_limit.TIME_LIMIT, "0.5")
    ended = []

    def run() -> None:
        with pytest.raises(InputError, match="takes longer"):
            Session(ENDLESS).run(given(1 << 62))
        ended.append(True)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert ended == [True, True]


def test_a_signal_ends_the_runs_of_all_threads_at_once() -> None:
    ended = []

    def run() -> None:
        with pytest.raises(InputError, match="ONNX Runtime can't run it: it was interrupted"):
            Session(ENDLESS).run(given(1 << 62))
        ended.append(True)

    other = threading.Thread(target=run)
    other.start()
    session = Session(ENDLESS)
    begin = time.monotonic()
    threading.Timer(1, signal.raise_signal, [signal.SIGINT]).start()
    with time_limit.runs_ended_by_signals(), pytest.raises(KeyboardInterrupt):
        session.run(given(1 << 62))
    other.join(60)  # beside another process of tests on two cores
    assert ended == [True]
    assert time.monotonic() - begin < 49  # less than the limit
    assert Session(ENDLESS).run(given(2))["y"].tolist() == [1, 1]


def test_a_signal_that_is_not_to_end_the_process_ends_no_run() -> None:
    if not hasattr(signal, "SIGUSR1"):
        pytest.skip("Windows has no such signal")
    came = []
    before = signal.signal(signal.SIGUSR1, lambda *_: came.append(True))
    try:
        with time_limit.runs_ended_by_signals():
            threading.Timer(0.1, signal.raise_signal, [signal.SIGUSR1]).start()
            Session(ENDLESS).run(given(1_000_000))
            time.sleep(0.5)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert came == [True]


@pytest.mark.parametrize(("text", "seconds"), [("", 600), ("0", float("inf")), ("1.5", 1.5)])
def test_the_limit_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    monkeypatch.setenv(time_limit.TIME_LIMIT, text)
    assert time_limit.time_limit() == seconds


@pytest.mark.parametrize("text", ["ten", "-1", "nan"])
def test_a_limit_that_is_no_time_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(time_limit.TIME_LIMIT, text)
    with pytest.raises(InputError, match=f"GRAPHSURGERY_TIME_LIMIT={text}: write a number of seconds"):
        Session(ENDLESS).run(given(1))
