"""The other end of a ToolWorker: requests on standard input, replies on standard output, one line of JSON each.

    from serving import Refused, serve
    serve(load, {"build": build, "infer": infer})       under `if __name__ == "__main__"`

`load` imports the tool. A request is {"do": "build", "log": FILE, "seconds": S, ...}; the function of that name gets it
and returns the reply. All that is printed meanwhile, by native code too, goes to the end of the file `log`. `Refused`
is an answer, {"error": ...}, as is every other exception; the process goes on.

It runs in the environment of a toolchain: only the standard library may be imported here.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

_ORPHAN_SECONDS = 30.0  # it ends itself so long after the time limit, should nobody be there to do it


class Refused(Exception):
    """What the tool was asked for can't be done; the message says why."""


def serve(load: Callable[[], Any], functions: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
    """Answer the requests on stdin until it closes."""
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    print_to(os.devnull)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops this process

    def say(reply: dict[str, Any]) -> None:
        protocol.write(json.dumps(reply) + "\n")
        protocol.flush()

    try:
        load()
    except Exception as error:  # whatever it is, the tool can't be used
        say({"missing": _line(error)})
        return
    say({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        print_to(request.get("log") or os.devnull)
        faulthandler.dump_traceback_later(request["seconds"] + _ORPHAN_SECONDS, exit=True)
        try:
            reply = functions[request["do"]](request)
        except BaseException as error:  # a tool may call exit(), too
            traceback.print_exc()
            reply = {"error": _line(error)}
        faulthandler.cancel_dump_traceback_later()
        sys.stdout.flush()
        sys.stderr.flush()
        say(reply)


def print_to(path: str) -> None:
    """Send all that this process prints to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(file, 1)
    if path != os.devnull:  # else what a crash leaves goes to where the parent looks
        os.dup2(file, 2)
    os.close(file)


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else "it says nothing"
    return said[:300] if isinstance(error, Refused) else f"{type(error).__name__}: {said}"[:300]
