"""Writes a reduced model as a folder that goes with a bug report: all it takes to see the failure again.

before.onnx            the model that the pass breaks
after.onnx             what the pass makes of it, where it makes anything
inputs/<tensor>.npy    what the model is given; characters that a file name can't have are written as in a URL: %2F
expected/<tensor>.npy  what it computes from them, without the pass
README.txt             what happens, with which versions, and the command that shows it
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import quote

import numpy as np

from graphsurgery.debugging.reduce import Reduction
from graphsurgery.errors import InputError
from graphsurgery.files.commit import writing
from graphsurgery.files.temporary import is_internal
from graphsurgery.graph.protos import walk_protos
from graphsurgery.plugins import source_file
from graphsurgery.version import __version__

_PACKAGES = ("onnx", "onnxruntime", "onnx-graphsurgeon", "onnxsim", "numpy")
_README = "README.txt"
_FIRST_LINE = "What a pass breaks, reduced by graphsurgery"


def save_tensors(tensors: Mapping[str, np.ndarray], folder: Path) -> None:
    """Write tensors as a folder that `--inputs` takes. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in tensors.items():
        np.save(folder / f"{quote(name, safe=' ')}.npy", value, allow_pickle=False)


def check_place(folder: Path) -> None:
    """Raise InputError unless a reproduction can be put at `folder`: nothing is there, or an earlier one."""
    readme = folder / _README
    try:
        ours = readme.is_file() and readme.read_text(encoding="utf-8", errors="replace").startswith(_FIRST_LINE)
        empty = folder.is_dir() and all(is_internal(each.name) for each in folder.iterdir())
        if folder.exists() and not ours and not empty:
            raise InputError(f"{folder}: holds something else; give another folder with --out")
    except OSError as error:
        raise InputError(
            f"{folder}: can't be looked into ({error.strerror}); give another folder with --out"
        ) from error


def write(found: Reduction, folder: Path, arguments: Sequence[str]) -> None:
    """Write what was found, all of it or nothing; an earlier one in its place goes.

    `arguments` are those of the command line that chose and configured the pass. Raises InputError.
    """
    check_place(folder)
    place = folder.resolve()
    try:
        with writing(place) as draft:
            work = draft.work
            found.model.write(work / "before.onnx")
            if found.broken.after is not None:
                found.broken.after.write(work / "after.onnx")
            save_tensors(found.given, work / "inputs")
            save_tensors(found.expected or {}, work / "expected")
            (work / _README).write_text(describe(found, arguments), encoding="utf-8")
            draft.publish(files_of_reproduction(place), _README)
    except OSError as error:
        raise InputError(f"{folder}: can't be written ({error.strerror or error}); give another --out") from error


def files_of_reproduction(folder: Path) -> list[str]:
    """Return what a reproduction in `folder` consists of, as far as it is there; other files are the user's."""
    tensors = (path for name in ("inputs", "expected") for path in (folder / name).glob("*.npy"))
    return ["before.onnx", "after.onnx", _README, *(path.relative_to(folder).as_posix() for path in tensors)]


def describe(found: Reduction, arguments: Sequence[str]) -> str:
    """Return the text of README.txt."""
    broken, name = found.broken, found.pass_.name
    inside = f", in {' > '.join(found.path)}" if found.path else ""
    lines = [_FIRST_LINE, "", f"Pass '{name}' ({found.pass_.effect}) {broken.words}:", f"  {broken.reason}", ""]
    nodes = [node.op_type for node in walk_protos(found.model.proto.graph)]
    lines += [
        f"before.onnx holds {len(nodes)} of the {found.nodes} nodes that the model had{inside}: {', '.join(nodes)}.",
        "No node can be taken away, or short-circuited, without the failure going away.",
        f"inputs/ holds what these nodes were given on sample '{found.sample}', expected/ what they compute from it.",
        "",
        "See it again, in this folder:",
        f"  python -m graphsurgery reduce before.onnx {shlex.join(arguments)} --inputs inputs",
    ]
    if broken.after is not None:
        lines += ["  python -m graphsurgery bisect before.onnx after.onnx --inputs inputs"]
    for report in broken.reports:
        figures = {
            "max abs": report.max_abs,
            "max rel": report.max_rel,
            "mean abs": report.mean_abs,
            "SQNR dB": report.sqnr_db,
            "cosine": report.cosine,
        }
        shown = ", ".join(f"{what} {value:.4g}" for what, value in figures.items() if value is not None)
        lines += ["", report.explain(), *([f"  {shown}"] if shown else [])]
    lines += [
        "",
        f"The pass is in {Path(source_file(type(found.pass_))).name}",
        f"graphsurgery {__version__}, Python {platform.python_version()}, {platform.platform()}",
        ", ".join(f"{package} {_version(package)}" for package in _PACKAGES),
    ]
    return "\n".join(lines) + "\n"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
