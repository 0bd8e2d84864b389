"""What compiles and plays one-node models for a target: plug-ins of what the target's vendor has."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from graphsurgery.devices.placement import FOLDED
from graphsurgery.devices.providers import CPU, PROVIDERS, DeviceChoice, require, session_options
from graphsurgery.errors import MissingTool, PassError
from graphsurgery.probing.cases import Case
from graphsurgery.probing.equality import compare
from graphsurgery.probing.one_node import NotBuilt
from graphsurgery.probing.quantized import ACTIVATIONS, is_quantizable, number_of_node, quantized
from graphsurgery.processes.worker import Running, Worker
from graphsurgery.targets.measured import Found, Tool
from graphsurgery.targets.schema import Outcome
from graphsurgery.text import shortened

Array = npt.NDArray[Any]

_MODULE = "graphsurgery.probing.trial_process"
# One node takes a fraction of a second; a compiler that is at it for so long doesn't come back
SECONDS = 60.0
_MEMORY_MB = 6000
# A process is replaced after so many models: what a compiler keeps of each must not fill the memory
_MODELS = 400
# What is another in each run: the name of a compiled graph
_UNLIKE = re.compile(r"(?<=ExecutionProvider)_\d+_\d+(_\d+)*")


class Backend(Protocol):
    """Compiles and plays one-node models, whose axes should differ in size where it asks for `unequal_sizes`."""

    precisions: frozenset[str]
    unequal_sizes: bool

    def tool(self) -> Tool:
        """Return what it is and of which version. Raises MissingTool where it isn't installed."""

    def measure(self, cases: Sequence[Case]) -> Iterator[Found]:
        """Yield what becomes of each case, in their order."""


@dataclass
class ProviderBackend:
    """A provider of ONNX Runtime, whose compiler and simulator or device run in a process that may die."""

    choice: DeviceChoice
    precisions: frozenset[str] = frozenset({"float16", "float32", "any", *ACTIVATIONS})
    seconds: float = SECONDS
    unequal_sizes: bool = False

    def tool(self) -> Tool:
        require(self.choice, f"probe on {self.choice.provider}")
        name = PROVIDERS[self.choice.provider].plugin or "onnxruntime"
        name = name.replace("_", "-")
        options = session_options(self.choice)
        chip = options.get("soc_model") or options.get("htp_arch")
        told = [f"onnxruntime {_version('onnxruntime')}"] + ([f"chip {chip}"] if chip else [])
        return Tool(name, _version(name), ", ".join(told), f"{platform.system()} {platform.machine()}")

    def measure(self, cases: Sequence[Case]) -> Iterator[Found]:
        running = Running(lambda: Worker(_MODULE, self.choice.provider))
        try:
            for at, case in enumerate(cases, start=1):
                yield self._measured(running, case)
                if at % _MODELS == 0:
                    running.shutdown()
        finally:
            running.shutdown()

    def _measured(self, running: Running[Worker], case: Case) -> Found:
        try:
            found = self._once(running, case)
            if found.outcome == "crash":  # what an earlier model left in the process may be why
                found = self._once(running, case)
            return found
        except NotBuilt as error:
            return Found("unknown", reason=str(error))

    def _once(self, running: Running[Worker], case: Case) -> Found:
        whole = case.precision in ACTIVATIONS and is_quantizable(case.node)
        proto = quantized(case.node, case.precision) if whole else case.node.proto
        number = number_of_node(proto)
        with running.use() as worker:
            (worker.folder / "model.onnx").write_bytes(proto.SerializeToString())
            np.savez(worker.folder / "feeds.npz", **case.node.feeds)  # type: ignore[arg-type]
            request = {
                "folder": str(worker.folder),
                "provider": self.choice.provider,
                "options": dict(self.choice.options),
            }
            try:
                reply = worker.ask(request, self.seconds, _MEMORY_MB)
            except PassError as error:
                worker.stop()
                return Found("crash", reason=_said(error, self.choice.provider))
            if "missing_tool" in reply:
                raise MissingTool(reply["missing_tool"])
            if reply["error"] is not None or _place(reply, number) != self.choice.provider:
                return _left(reply, number)
            with np.load(worker.folder / "outputs.npz") as stored:
                computed = dict(stored)
        expected = case.node.expected(proto) if whole else case.node.results
        equality = compare(expected, computed, unordered=case.node.unordered)
        outcome: Outcome = "taken" if equality.holds(case.precision) else "wrong"
        return Found(outcome, float(equality.decibels), equality.remark)


def _place(reply: Mapping[str, Any], number: int) -> str:
    """Return where the node ran: where all that ONNX Runtime put in its place did, if it did so."""
    ran: str = reply["ran"][str(number)]
    if ran == FOLDED and reply["others"]:
        return CPU.provider if CPU.provider in reply["others"] else reply["others"][0]
    return ran


def _left(reply: Mapping[str, Any], number: int) -> Found:
    """Return what became of a node that the provider didn't run."""
    reason = reply["reasons"].get(str(number))
    if reply["error"] is not None:
        remark = "it is compiled, and can't be run" if reply["loaded"] else None
        error = shortened(_UNLIKE.sub("", reply["error"]), 120)
        told = "; ".join(filter(None, (error, None if reason is None or reason in error else reason)))
        return Found("refused", remark=remark, reason=told)
    if _place(reply, number) == FOLDED:
        return Found("unknown", remark="ONNX Runtime computes it beforehand")
    return Found("cpu", reason=reason)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _said(error: PassError, name: str) -> str:
    return str(error).removeprefix(f"{name} ").removesuffix("; leave the pass out").split("; raise the limit")[0]
