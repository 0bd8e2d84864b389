"""A search: what it takes, what becomes of settings that fail, and that nothing that was found is lost."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from graphsurgery.errors import Difference, InputError, MissingTool
from graphsurgery.recipe.load import load_recipe
from graphsurgery.rewrite.registry import discover
from graphsurgery.search.attempt import Attempt, Found, Material, do
from graphsurgery.search.look import RECIPE, RESULT, look, passes_as_written, write_recipe
from graphsurgery.search.run import in_threads, on_cluster, what_is_wrong
from graphsurgery.search.store import FOUND
from search.tiny import odd, part, quantizing, samples

pytest.importorskip("optuna")


def search_with(folder: Path, asked: Any, run: Any = None, io: Path | None = None) -> Any:
    there = samples(folder / "io") if io is None else [*_again(io)]
    return look(*asked, [part()], there, folder / "search", run or partial(in_threads, workers=2))


def _again(folder: Path) -> Iterator[Any]:
    from graphsurgery.capture.samples import Sample

    for place in sorted(folder.iterdir()):
        yield Sample(place.name, place, None, 8, 8)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of four settings, done by two processes."""
    folder = tmp_path_factory.mktemp("search")
    search_with(folder, quantizing())
    return folder


def result(folder: Path) -> Any:
    return json.loads((folder / "search" / RESULT).read_text(encoding="utf-8"))


def test_the_cheapest_setting_that_keeps_what_is_asked_is_taken(quantized: Path) -> None:
    rows = {row["number"]: row for row in result(quantized)["trials"]}
    assert len(rows) == 4
    taken = rows[result(quantized)["chosen"]]
    assert taken["cost"] == 0.0625
    assert taken["setting"] == {"net: quantize.activations": "uint8", "net: quantize.exclude": []}
    assert taken["sqnr_db"] >= 20
    wide = next(
        row for row in rows.values() if row["setting"]["net: quantize.activations"] == "uint16" and row["front"]
    )
    assert wide["cost"] == 0.125
    assert wide["sqnr_db"] > taken["sqnr_db"]
    # 6,912 of the 7,936 multiply-adds are the first layer's
    kept = {len(row["setting"]["net: quantize.exclude"]): row["in_integers"] for row in rows.values()}
    assert kept[0] == 1
    assert kept[1] < 1


def test_what_was_found_is_not_done_again(quantized: Path) -> None:
    before = (quantized / "search" / RESULT).read_bytes()

    def nobody(attempts: Any) -> Iterator[Any]:
        raise AssertionError(f"{len(attempts)} are done again")
        yield

    search_with(quantized, quantizing(), nobody, io=quantized / "io")
    assert (quantized / "search" / RESULT).read_bytes() == before


def test_a_line_that_is_torn_is_done_again_and_the_bytes_are_the_same(quantized: Path, tmp_path: Path) -> None:
    lines = (quantized / "search" / FOUND).read_bytes().splitlines(keepends=True)
    assert len(lines) == 5  # the ranking, and four settings
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / FOUND).write_bytes(lines[0] + lines[1][:40] + b"\n" + b"".join(lines[2:])[:-9])
    done: list[Any] = []

    def counted(attempts: Any) -> Iterator[Any]:
        done.extend(attempts)
        yield from ((attempt, do(attempt)) for attempt in attempts)

    search_with(tmp_path, quantizing(), counted)
    assert len(done) == 2
    assert (tmp_path / "search" / RESULT).read_bytes() == (quantized / "search" / RESULT).read_bytes()


def test_a_limit_that_nothing_keeps_is_told_with_the_best_there_is(quantized: Path) -> None:
    with pytest.raises(Difference, match=r"none of the 4 settings that were tried keeps 150 dB .* the best has \d"):
        search_with(quantized, quantizing(sqnr=150.0), io=quantized / "io")
    assert result(quantized)["chosen"] is None
    search_with(quantized, quantizing(), io=quantized / "io")


def test_settings_that_crash_or_hang_are_rows_and_not_the_end(tmp_path: Path) -> None:
    asked = odd(tmp_path, "dies", "fine", "hangs", seconds=10.0)
    found = search_with(tmp_path, asked)
    failed = [row.get("failed", "") for row in found.record["trials"]]
    assert "crashed (exit code 0x7)" in failed[0]
    assert not failed[1]
    assert "was stopped after 10 s" in failed[2]
    assert found.record["chosen"] == 2

    again: list[Attempt] = []

    def counted(attempts: Sequence[Attempt]) -> Iterator[Any]:
        again.extend(attempts)
        yield from ((attempt, Found({"y": 1.0})) for attempt in attempts)

    search_with(tmp_path, asked, counted, io=tmp_path / "io")
    assert not again
    search_with(tmp_path, odd(tmp_path, "dies", "fine", "hangs", seconds=20.0), counted, io=tmp_path / "io")
    assert [json.loads(attempt.uses[0].options)["what"] for attempt in again] == ["dies", "hangs"]


def test_the_choice_is_a_recipe_of_its_own(tmp_path: Path) -> None:
    _, passes = quantizing()
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "extends: shapes\nvariants:\n  best:\n    part_passes: {box_head: [quantize]}\n"
        "    search: {passes: {quantize: {activations: [uint8]}}, sqnr: 1}\n",
        encoding="utf-8",
    )
    (tmp_path / "search").mkdir()
    part_passes = {"box_head": passes["net"]}
    written = write_recipe(tmp_path / "search", recipe, "best", {"part_passes": passes_as_written(part_passes)})
    assert written.name == RECIPE
    read = load_recipe(str(written), registry=discover())
    best = next(each for each in read.variants if each.name == "best")
    assert best.search is None
    assert best.part_passes["box_head"][0].pass_ == passes["net"][0].pass_


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with distributed.LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as started:
        yield started


def test_a_cluster_of_which_one_dies_finds_the_same_bytes(cluster: Any, quantized: Path, tmp_path: Path) -> None:
    def trouble() -> None:
        deadline = time.monotonic() + 60
        while not (tmp_path / "search" / FOUND).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        with suppress(psutil.Error):
            os.kill(next(iter(cluster.workers.values())).pid, signal.SIGTERM)

    thread = threading.Thread(target=trouble)
    thread.start()
    try:
        search_with(tmp_path, quantizing(), partial(on_cluster, scheduler=cluster.scheduler_address))
    finally:
        thread.join()
    assert (tmp_path / "search" / RESULT).read_bytes() == (quantized / "search" / RESULT).read_bytes()


def test_a_worker_that_lacks_something_says_what(tmp_path: Path) -> None:
    attempt = Attempt(Material("front", tmp_path / "front.onnx", (), ""), (), 1.0, 100)
    assert what_is_wrong([attempt]) == f"there is no {tmp_path / 'front.onnx'}"
    attempt.material.model.touch()
    assert what_is_wrong([attempt]) is None


def test_a_scheduler_that_goes_away_loses_nothing(quantized: Path, tmp_path: Path) -> None:
    """The command ends with one line; typed again, it does what is left."""

    def goes_away(attempts: Any) -> Iterator[Any]:
        for number, attempt in enumerate(attempts):
            if number == 2:
                raise MissingTool("--scheduler tcp://x: the scheduler went away; run again, which goes on from here")
            yield attempt, do(attempt)

    with pytest.raises(MissingTool, match="goes on from here"):
        search_with(tmp_path, quantizing(), goes_away)
    assert len((tmp_path / "search" / FOUND).read_bytes().splitlines()) == 3
    search_with(tmp_path, quantizing(), io=tmp_path / "io")
    assert len((tmp_path / "search" / FOUND).read_bytes().splitlines()) == 5
    assert (tmp_path / "search" / RESULT).read_bytes() == (quantized / "search" / RESULT).read_bytes()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "search").write_text("a file", encoding="utf-8")
    with pytest.raises(InputError, match="can't be written"):
        search_with(tmp_path, quantizing())


def test_the_cheapest_that_keeps_its_ap_is_taken_where_ap_counts(quantized: Path) -> None:
    search, passes = quantizing()
    asked: list[str] = []

    def dropped(part_passes: Any) -> float:
        asked.append(part_passes["net"][0].pass_.activations)
        return {"uint8": 0.2, "uint16": 0.01}[asked[-1]]

    there = [*_again(quantized / "io")]
    wanted = replace(search, max_ap_drop=0.05)
    found = look(wanted, passes, [part()], there, quantized / "search", partial(in_threads, workers=1), dropped=dropped)
    rows = {row["number"]: row for row in found.record["trials"]}
    assert rows[found.record["chosen"]]["ap_drop"] == 0.01
    assert asked[0] == "uint8"
    assert found.part_passes["net"][0].pass_.activations == "uint16"
    with pytest.raises(Difference, match=r"loses no more than 0.001 AP: the best of \d loses 0.0100"):
        look(
            replace(search, max_ap_drop=0.001),
            passes,
            [part()],
            there,
            quantized / "search",
            partial(in_threads, workers=1),
            dropped=dropped,
        )
