"""A script in the environment of a toolchain, which answers one request after another in a process of its own.

    worker = ToolWorker(require("rknn", place), RKNN_WORKER, place)
    reply = worker.ask({"do": "build", "log": str(log), ...}, seconds=600)

The other end is `workers/serving.py`: the script imports it, the standard library and its tool. What is larger than a
line of JSON travels as files, such as .npy, in `worker.folder`, which goes with the process. `Running`, of
graphsurgery.processes.worker, keeps one worker for many callers.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from graphsurgery.errors import GraphSurgeryError, InputError, MissingTool
from graphsurgery.files import reason
from graphsurgery.processes.worker import Child
from graphsurgery.text import shortened, visible

WORKERS = Path(str(resources.files("graphsurgery.toolchains"))) / "workers"


class ToolWorker(Child):
    """The parent's end. `name` begins every message. Raises MissingTool where `python` can't be started."""

    def __init__(self, python: Path, script: Path, name: str) -> None:
        kept = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
        environment = {**dict.fromkeys(kept, ""), "PYTHONPATH": str(WORKERS), "PYTHONNOUSERSITE": "1"}
        self._log: Path | None = None
        try:
            super().__init__([str(python), str(script)], name, environment)
        except OSError as error:
            raise MissingTool(f"{name}: {python} can't be started ({reason(error)}); install it again") from error

    @property
    def _messages(self) -> Path:
        return self._log or super()._messages

    def fault(self, what: str, cure: str = "") -> GraphSurgeryError:
        return InputError(f"{self._name} {what}{'; ' + cure if cure else ''}")

    def ask(self, request: Mapping[str, Any], seconds: float, memory_mb: int | None = None) -> dict[str, Any]:
        """Do one request and return the reply. A file that it names as `log` gets what is printed meanwhile.

        Raises InputError where the tool refuses or fails, crashes or takes longer than `seconds`; MissingTool where it
        can't be loaded.
        """
        self._log = Path(request["log"]) if request.get("log") else None
        reply = super().ask(request, seconds, memory_mb)
        if "error" in reply:
            raise InputError(f"{self._name}: {shortened(visible(str(reply['error'])), 300)}")
        return reply
