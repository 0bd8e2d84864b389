"""The commands that are killed at every event in the file system, and what of a folder is theirs.

In tests/, `python -m files.kill_points SCENARIO FOLDER [full]` prints how many points there were, and what was wrong at
which.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from files.kill_everywhere import Action, Scenario, kill_everywhere


def cli(*arguments: object) -> Action:
    """Return what runs a command of the command line."""

    def run() -> None:
        from graphsurgery.cli import main

        sys.argv = ["graphsurgery", *map(str, arguments)]
        main()

    return run


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): digest(path) for path in root.rglob("*") if path.is_file()}


def write_model() -> None:
    import numpy as np
    import onnx
    from PIL import Image

    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1,3,8,16] image) => (float[1,2,8,16] y) <float[2,3,1,1] w = {0.1, 0.2, 0.3, -0.4, 0.5, -0.6}> {
        h = Conv(image, w)
        i = Identity(h)
        y = Relu(i)
    }"""
    onnx.save(onnx.parser.parse_model(text), "tiny.onnx")
    for album, numbers in (("photos", (0, 1)), ("others", (1, 2))):
        Path(album).mkdir()
        for number in numbers:
            pixels = np.full((8, 16, 3), 40 * number + len(album), np.uint8)
            Image.fromarray(pixels).save(f"{album}/p{number}.png")
    for name in ("old", "new"):
        recipe = "source: {onnx: tiny.onnx, size: [8, 16]}\ncapture: {images: photos, samples: 2}\n"
        Path(f"{name}.yaml").write_text(recipe + "passes: [drop-identity]\n", encoding="utf-8")


def write_notes(*folders: str) -> Action:
    """Return what puts files of the user's into folders."""

    def write() -> None:
        for folder in folders:
            Path(folder, "mine").mkdir()
            Path(folder, "mine", "model.onnx").write_text("mine", encoding="utf-8")
            Path(folder, "notes.txt").write_text("mine", encoding="utf-8")

    return write


def apply(name: str) -> Action:
    return cli("apply", f"{name}.yaml", "--out", "parts", "--model-io", "io")


def parts_state(root: Path) -> object:
    """Tell which run each file of the parts is of; times differ from run to run."""
    found = files(root / "parts") if (root / "parts").is_dir() else {}
    for name in {"run.json", "manifest.json"} & set(found):
        content = json.loads((root / "parts" / name).read_text(encoding="utf-8"))["recipe"]
        found[name] = content if isinstance(content, str) else content["name"]
    if "report.html" in found:
        page = (root / "parts" / "report.html").read_text(encoding="utf-8")
        found["report.html"] = str(sorted(set(re.findall(r"\b(?:old|new)\.onnx\b|<h1>[^<]*", page))))
    return found, files(root / "io")


def write_bars() -> None:
    bars = importlib.import_module("bars")
    bars.write_parts(Path("parts"))
    bars.write_images(Path(), 3)


def evaluate(count: int) -> Action:
    given = ("--images", "images", "--annotations", "instances.json", "--workers", 1, "--no-original")
    return cli("evaluate", "parts", *given, "--max-samples", count)


def write_videos() -> None:
    videos = importlib.import_module("video.videos")
    for name, frames in (("old", 3), ("new", 4)):
        videos.write(Path(f"{name}.mp4"), frames)


def run_video(name: str) -> Action:
    return cli("run", "parts", "--video", f"{name}.mp4", "--out", "out.mp4", "--threads", 1)


def compile_bars(count: int) -> Action:
    given = ("--with", "ascend", "--option", "soc_version=Ascend310P3", "--no-run", "--images", "images")
    return cli("compile", "parts", *given, "--max-samples", count)


def evaluation_state(root: Path) -> object:
    place = root / "evaluation" / "parts"
    summary = json.loads((place / "summary.json").read_text(encoding="utf-8"))
    results = json.loads((place / "results_parts.json").read_text(encoding="utf-8"))
    return summary["samples"], len({each["image_id"] for each in results}), files(root / "parts")


def settled(folder: str) -> Action:
    """Return what does no more than any command does that reads a folder."""

    def recover() -> None:
        from graphsurgery.files import commit

        commit.recover(Path(folder))

    return recover


def captured() -> list[Action]:
    return [write_model, cli("capture", "old.yaml", "--model-io", "io")]


def publish(*parts: str) -> Action:
    """Return what publishes parts and, for each, a variant of it; it takes a hundredth of what `apply` takes."""

    def run() -> None:
        from graphsurgery.parts.folder import OutputFolder

        with OutputFolder(Path("parts")) as output:
            listed = [{"file": f"{part}.onnx"} for part in parts]
            manifest = json.dumps({"graphsurgery": "9", "parts": listed, "variants": [f"v-{part}" for part in parts]})
            output.write_text("manifest.json", manifest)
            for part in parts:
                output.write_text(f"{part}.onnx", " ".join(parts))
                output.make_folder(f"v-{part}")
                output.write_text(f"v-{part}/{part}.onnx", " ".join(parts))
                listed = [{"file": f"{part}.onnx"}]
                output.write_text(f"v-{part}/manifest.json", json.dumps({"graphsurgery": "9", "parts": listed}))
            output.publish()

    return run


def save_pair(size: int) -> Action:
    """Return what writes a model and its weights, which are a file of their own."""

    def run() -> None:
        import numpy as np
        import onnx

        from graphsurgery.graph.model import Model

        weight = onnx.numpy_helper.from_array(np.full((size, 1024), size, np.float32), "w")
        graph = onnx.helper.make_graph([], "g", [], [], [weight])
        Model(onnx.helper.make_model(graph)).save("m.onnx", 0)

    return run


def install_tool(version: str) -> Action:
    """Return what installs a toolchain whose environment is one file, the version."""

    def run() -> None:
        from unittest import mock

        from graphsurgery.toolchains import Toolchain, install
        from graphsurgery.toolchains.toolchain import here

        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        tool = Toolchain("tool", "A tool", "tool", (), {"tool": version}, (), (python,), (here(),), "nobody's")

        def fill(making: Any, base: str, watcher: object) -> None:
            making.folder.mkdir()
            (making.folder / "made.txt").write_text(version, encoding="utf-8")

        cache = {"GRAPHSURGERY_CACHE": str(Path("cache").absolute())}
        with mock.patch.object(install, "_fill", fill), mock.patch.dict(os.environ, cache):
            install.install(tool)

    return run


def probe(op: str) -> Action:
    """The command, of one operator of a target whose vendor's tool is a stand-in."""

    def run() -> None:
        from probing.stand import TARGET, Stand

        from graphsurgery.probing import backends

        Path("mine.yaml").write_text(json.dumps(TARGET), encoding="utf-8")
        backends.backend_of = lambda named: Stand()
        cli("probe", "--target", "mine.yaml", "--op", op, "--out", "m.json")()

    return run


def tool_state(root: Path) -> object:
    place = root / "cache" / "toolchains"
    folder = json.loads((place / "tool.json").read_text(encoding="utf-8"))["folder"]
    return (place / folder / "made.txt").read_text(encoding="utf-8")


SCENARIOS = {
    "toolchain install": lambda: Scenario(
        [install_tool("1")],
        install_tool("2"),
        settled("cache/toolchains"),
        tool_state,
        r"cache/toolchains/tool(\.lock|-[0-9a-f]{8}(/.*)?)",  # the next run takes the older ones away
    ),
    "publish": lambda: Scenario(
        [publish("a", "b"), write_notes("parts", "parts/v-a", "parts/v-b")],
        publish("b", "c"),
        settled("parts/v-b"),
        lambda root: files(root / "parts"),
    ),
    "a model in two files": lambda: Scenario(
        [save_pair(2), write_notes(".")],
        save_pair(3),
        settled("."),
        lambda root: (digest(root / "m.onnx"), digest(root / "m.onnx.data")),
    ),
    "apply": lambda: Scenario(
        [write_model, apply("old"), write_notes("parts", "io", "io/p0")],
        apply("new"),
        cli("inspect", "parts"),
        parts_state,
    ),
    "apply, the first time": lambda: Scenario(
        captured(),
        cli("apply", "new.yaml", "--out", "deep/parts", "--model-io", "io"),
        settled("deep/parts"),
        lambda root: (sorted(files(root / "deep")), files(root / "io")),
    ),
    "capture": lambda: Scenario(
        [*captured(), write_notes("io", "io/p0", "io/p1")],
        cli("capture", "old.yaml", "--model-io", "io", "--images", "others", "--overwrite"),
        cli("check", "io", "io"),
        lambda root: files(root / "io"),
    ),
    "evaluate": lambda: Scenario(
        [write_bars, evaluate(2), write_notes("parts", "evaluation/parts")],
        evaluate(3),
        settled("evaluation/parts"),
        evaluation_state,
        r"evaluation/parts/progress_parts\.jsonl",
    ),
    "compile": lambda: Scenario(
        [write_bars, compile_bars(1), write_notes("parts", "parts/compiled", "parts/compiled/ascend/all")],
        compile_bars(2),
        cli("run", "parts", "--image", "images/1.png"),
        lambda root: files(root / "parts"),
    ),
    "run --video": lambda: Scenario(
        [write_bars, write_videos, run_video("old"), write_notes(".")],
        run_video("new"),
        settled("."),
        lambda root: (digest(root / "out.mp4"), digest(root / "out.jsonl")),
    ),
    "picture": lambda: Scenario(
        [write_model, cli("picture", "tiny.onnx", "-o", "graph.html"), write_notes(".")],
        cli("picture", "tiny.onnx", "--around", "y", "--depth", 0, "-o", "graph.html"),
        cli("picture", "tiny.onnx", "-o", "other.svg"),
        lambda root: digest(root / "graph.html"),
        r"other\.svg",
    ),
    "quantize": lambda: Scenario(
        [*captured(), lambda: shutil.copy("tiny.onnx", "q.onnx"), write_notes(".")],
        cli("quantize", "tiny.onnx", "--inputs", "io", "--out", "q.onnx", "--plot", "q.svg", "--json", "q.json"),
        cli("inspect", "q.onnx"),
        lambda root: (digest(root / "q.onnx"), *sorted(path.name for path in root.glob("q.[js]*"))),
    ),
    "report": lambda: Scenario(
        [write_model, apply("old"), lambda: Path("parts/report.html").write_text("old", encoding="utf-8")],
        cli("report", "parts", "--no-pictures"),
        cli("inspect", "parts"),
        lambda root: (files(root / "parts") | {"run.json": ""}, files(root / "io")),
    ),
    "probe": lambda: Scenario(
        [probe("Conv"), write_notes(".")],
        probe("Loop"),
        settled("."),
        lambda root: digest(root / "m.json"),
        r"mine\.yaml",
    ),
    "new-pass": lambda: Scenario(
        [write_notes(".")],
        cli("new-pass", "lower-foo", "--matches", "Conv", "--plugin", "lower_foo.py"),
        settled("."),
        lambda root: sorted(files(root)),
        codes=(0, 2),
    ),
}


def main() -> None:
    """Run one scenario in a folder."""
    name, work = sys.argv[1], Path(sys.argv[2]).resolve()
    os.environ["TMPDIR"] = str(work / "root" / "tmp")
    tempfile.tempdir = os.environ["TMPDIR"]  # else Python tries it out with a file of its own, which a kill would leave
    sys.path.insert(0, str(Path(__file__).parent.parent))
    if name != "picture":  # drawings of a report change nothing in the file system, and take a process for each command
        graphviz_process = importlib.import_module("graphsurgery.processes.graphviz_process")
        graphviz_process.is_installed = lambda: False  # before anything imports it from there
    for module in ("onnxruntime", "PIL.Image", "graphsurgery.cli", "graphsurgery.pipeline.whole_run"):
        importlib.import_module(module)
    points, wrong = kill_everywhere(SCENARIOS[name](), work, sys.argv[3:] == ["full"])
    print(json.dumps({"points": points, "wrong": wrong}))


if __name__ == "__main__":
    main()
