"""sweep on the command line: a row for all that happens, and an earlier sweep to be held against."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import Cli
from sweep.tiny import network, recipe

from graphsurgery.sweep import run
from graphsurgery.sweep.job import Job
from graphsurgery.sweep.rows import read_rows

BROKEN = "source: {onnx: broken.onnx}\nimage: {channels: RGB}\ncapture: {samples: 1}\n"


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of a recipe that passes for a target, with a variant, and one whose model is none."""
    monkeypatch.chdir(tmp_path)
    recipe(tmp_path)
    (tmp_path / "broken.yaml").write_text(BROKEN, encoding="utf-8")
    (tmp_path / "broken.onnx").write_text("no model", encoding="utf-8")
    text = (
        "recipes: [{recipe: net.yaml, images: photos}, {recipe: broken.yaml, images: photos}]\n"
        "targets: [generic-cnn]\nvariants: [twice]\n"
    )
    (tmp_path / "zoo.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "zoo.yaml"


def test_a_sweep_makes_a_table_goes_on_and_is_held_against_an_earlier_one(cli: Cli, zoo: Path) -> None:
    first = cli("sweep", zoo, "--out", "first")
    assert first.code == 1, first.err
    assert "broken@generic-cnn: " in first.err
    rows = {row["job"]: row for row in json.loads(Path("first/sweep.json").read_text(encoding="utf-8"))}
    assert {name: row["ended"] for name, row in rows.items()} == {
        "net@generic-cnn": "passed",
        "net@generic-cnn+twice": "passed",
        "broken@generic-cnn": "refused",
    }
    net = rows["net@generic-cnn"]
    assert (net["nodes"], net["nodes_taken"], net["multiply_adds"], net["multiply_adds_taken"]) == (2, 1, 6912, 6912)
    assert net["bytes"] > 432
    assert len(list(csv.reader(Path("first/sweep.csv").read_text(encoding="utf-8").splitlines()))) == 4
    assert "2 of 3 jobs passed" in Path("first/sweep.html").read_text(encoding="utf-8")

    stamp = Path("first/jobs/net@generic-cnn/job.json").stat().st_mtime_ns
    again = cli("sweep", zoo, "--out", "first", "--json", "-")
    assert again.code == 1
    assert json.loads(again.out)["rows"] == list(rows.values())
    assert Path("first/jobs/net@generic-cnn/job.json").stat().st_mtime_ns == stamp

    network(zoo.parent, kind="Foo")  # another model under the name: ONNX has no such operator
    worse = cli("sweep", zoo, "--out", "second", "--against", "first")
    assert worse.code == 1
    assert "worse: net@generic-cnn: refused, passed before" in worse.err
    assert "worse: broken" not in worse.err


def test_parts_are_made_once_and_held_against_each_target(cli: Cli, zoo: Path) -> None:
    (zoo.parent / "strict.yaml").write_text(
        "extends: generic-cnn\ntitle: Strict\noperators: {Conv: refused}\n", "utf-8"
    )
    zoo.write_text(zoo.read_text("utf-8").replace("[generic-cnn]", "[generic-cnn, strict.yaml]"), "utf-8")
    outcome = cli("sweep", zoo, "--out", "out", "--workers", "2")
    assert outcome.code == 1, outcome.err
    rows = {row.job: row for row in read_rows(Path("out"))}
    assert {name: (row.ended, row.parts_of) for name, row in rows.items()} == {
        "net": ("passed", None),
        "net@generic-cnn": ("passed", "net"),
        "net@strict": ("refused", "net"),
        "net+twice": ("passed", None),
        "net@generic-cnn+twice": ("passed", "net+twice"),
        "net@strict+twice": ("refused", "net+twice"),
        "broken": ("refused", None),
        "broken@generic-cnn": ("refused", "broken"),
        "broken@strict": ("refused", "broken"),
    }
    assert rows["net"].nodes_taken is None
    for name in ("net@generic-cnn", "net@generic-cnn+twice"):
        assert (rows[name].nodes, rows[name].nodes_taken, rows[name].multiply_adds_taken) == (2, 1, 6912)
        assert rows[name].bytes == rows[rows[name].parts_of or ""].bytes
    assert "refuses it: Conv" in (rows["net@strict"].error or "")
    assert rows["broken@generic-cnn"].error == rows["broken"].error
    jobs = Path("out/jobs")
    assert sorted(path.parent.name for path in jobs.glob("*/parts")) == ["net", "net+twice"]
    assert "not run: broken ended so: refused" in (jobs / "broken@generic-cnn" / "log.txt").read_text("utf-8")
    page = Path("out/sweep.html").read_text("utf-8")
    assert 'href="jobs/net/parts/report.html"' in page
    assert all(Path("out", unquote(link)).is_file() for link in re.findall(r'href="(jobs/[^"]+)"', page))

    def stamps() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in jobs.glob("*/job.json")}

    before = stamps()
    assert cli("sweep", zoo, "--out", "out").code == 1
    assert stamps() == before
    cli("sweep", zoo, "--out", "out", "--retry")
    assert {name for name, stamp in stamps().items() if stamp == before[name]} == {
        *("net", "net+twice", "net@generic-cnn", "net@generic-cnn+twice")
    }


def test_what_is_done_so_far_stands_in_the_tables(cli: Cli, zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    do = run.in_threads

    def interrupted(jobs: Sequence[Job], folder: Path, workers: int) -> Iterator[run.Done]:
        yield from do(jobs[:1], folder, workers)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "in_threads", interrupted)
        assert cli("sweep", zoo, "--out", "some").code == 130
    assert "1 of 3 jobs passed, 2 to do" in Path("some/sweep.html").read_text(encoding="utf-8")
    assert [row.job for row in read_rows(Path("some"))] == ["net@generic-cnn"]


def test_a_second_sweep_in_the_folder_of_one_that_runs_is_refused(cli: Cli, zoo: Path) -> None:
    hold = (
        "import sys, pathlib, graphsurgery.sweep.run as run\n"
        "with run.folder_of_its_own(pathlib.Path('held')):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"held"
        outcome = cli("sweep", zoo, "--out", "held")
        other.communicate()
    assert outcome.code == 2
    assert f"process {other.pid}" in outcome.last_line
    assert "wait for its end, or give another folder" in outcome.last_line


def test_jobs_are_listed_without_being_done(cli: Cli, zoo: Path) -> None:
    outcome = cli("sweep", zoo, "--list")
    assert outcome.code == 0
    assert "net@generic-cnn+twice" in outcome.out
    assert not Path("model").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "2", "--scheduler", "tcp://localhost:1"], "exclude each other"),
        (["--against", "nowhere"], "nowhere/sweep.json: can't be read"),
    ],
)
def test_wrong_options_are_one_line(cli: Cli, zoo: Path, options: list[str], said: str) -> None:
    outcome = cli("sweep", zoo, *options)
    assert outcome.code == 2
    assert said in outcome.last_line.replace("\\", "/")
    assert not Path("model").exists()
