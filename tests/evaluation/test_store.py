"""Results outlive the run that found them, and are used for nothing but what they are of."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from bars import bars

from graphsurgery.errors import InputError
from graphsurgery.evaluation.store import FileStore, MemoryStore
from graphsurgery.evaluation.tasks import Found, Task

RESULT = {"image_id": 1, "category_id": 1, "bbox": [0.1, 1 / 3, 1.0, 4.0], "score": 0.30000001192092896}
FOUND = Found(0.25, ("bbox", "segm"), [RESULT])


def test_results_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    first, second, *_ = dataset.pictures
    for store in (FileStore(tmp_path / "out" / "deep"), MemoryStore()):
        assert store.done(column, 1, dataset.pictures) == set()
        store.add(Task(column, first, 1), FOUND)
        store.add(Task(column, second, 1), Found(kinds=("bbox",)))
        assert store.done(column, 1, dataset.pictures) == {1, 2}
        assert store.done(column, 1, [second]) == {2}
        assert store.read(column, 1, dataset.pictures) == {1: FOUND, 2: Found(kinds=("bbox",))}
    assert FileStore(tmp_path / "out" / "deep").read(column, 1, [first]) == {1: FOUND}


def test_what_is_of_another_model_image_or_number_of_threads_does_not_count(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    store, picture = FileStore(tmp_path / "out"), dataset.pictures[0]
    store.add(Task(column, picture, 1), FOUND)
    assert store.done(column, 2, [picture]) == set()
    assert store.done(replace(column, fingerprint="0"), 1, [picture]) == set()
    assert store.done(replace(column, name="int8"), 1, [picture]) == set()
    assert store.done(column, 1, [replace(picture, sha256="0")]) == set()
    assert store.read(column, 1, [replace(picture, sha256="0")]) == {}
    store.add(Task(column, replace(picture, sha256="0"), 1), Found(results=[]))
    store.add(Task(column, picture, 2), Found(results=[]))
    assert store.read(column, 1, [picture]) == {1: FOUND}


def test_a_torn_line_counts_as_not_written(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    store = FileStore(tmp_path / "out")
    for picture in dataset.pictures[:3]:
        store.add(Task(column, picture, 1), FOUND)
    (file,) = (tmp_path / "out").iterdir()
    content = file.read_bytes()
    for end in range(len(content) - 1, len(content) - 100, -1):
        file.write_bytes(content[:end])
        there = store.done(column, 1, dataset.pictures)
        assert there in ({1, 2}, {1, 2, 3})
        assert (3 in there) == (end == len(content) - 1)
    file.write_bytes(content[:-40])
    store.add(Task(column, dataset.pictures[3], 1), FOUND)
    assert store.done(column, 1, dataset.pictures) == {1, 2, 4}
    store.add(Task(column, dataset.pictures[2], 1), FOUND)
    assert store.done(column, 1, dataset.pictures) == {1, 2, 3, 4}


def test_forgetting_a_column_leaves_the_others(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    other = replace(column, name="int8")
    store, picture = FileStore(tmp_path / "out"), dataset.pictures[0]
    store.forget(column)
    for each in (column, other):
        store.add(Task(each, picture, 1), FOUND)
    store.forget(column)
    assert store.done(column, 1, [picture]) == set()
    assert store.done(other, 1, [picture]) == {1}


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"no folder can be made there .*; give another --out"):
        FileStore(tmp_path / "file")


MASK = {"size": [2, 3], "counts": "132"}


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "1"},
        {"seconds": None},
        {"kinds": ["mask"]},
        {"results": [{**RESULT, "bbox": [1]}]},
        {"results": [{**RESULT, "score": "1"}]},
        {"results": [{**RESULT, "segmentation": []}]},
        {"results": [[[[]]]]},
    ],
)
def test_a_line_of_another_form_counts_as_not_written(tmp_path: Path, changes: dict[str, object]) -> None:
    column, dataset = bars(tmp_path)
    store = FileStore(tmp_path / "out")
    store.add(Task(column, dataset.pictures[0], 1), Found(0.25, ("segm",), [{**RESULT, "segmentation": MASK}]))
    assert store.done(column, 1, dataset.pictures) == {1}
    (file,) = (tmp_path / "out").iterdir()
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes) + "\n", encoding="utf-8")
    assert store.done(column, 1, dataset.pictures) == set()
    assert store.read(column, 1, dataset.pictures) == {}


def test_a_mask_that_is_none_is_refused(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    store = FileStore(tmp_path / "out")
    broken = {**MASK, "counts": "~~~~"}
    store.add(Task(column, dataset.pictures[0], 1), Found(0.25, ("segm",), [{**RESULT, "segmentation": broken}]))
    with pytest.raises(InputError, match=r"image 1: its run lengths are no compressed RLE; begin anew: --restart"):
        store.read(column, 1, dataset.pictures)


def test_a_link_to_a_device_holds_no_results(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    store = FileStore(tmp_path / "out")
    try:
        (tmp_path / "out" / f"progress_{column.name}.jsonl").symlink_to(os.devnull)
    except OSError:
        pytest.skip("no links can be made here")
    with pytest.raises(InputError, match=r"\(a pipe or device, not a file\); begin anew"):
        store.done(column, 1, dataset.pictures)
