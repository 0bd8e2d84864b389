"""Opens ONNX Runtime sessions on accelerators: registers plug-ins, refuses to fall back, keeps what was compiled.

ONNX Runtime puts whatever a provider does not take on the CPU, and says nothing of it: on Qualcomm's HTP one dynamic
batch sends the whole graph there, and the session succeeds. Here that is an error, unless it is allowed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from onnx import ModelProto, StringStringEntryProto

from graphsurgery.devices.attach import attach
from graphsurgery.devices.loadable import Loadable
from graphsurgery.devices.providers import DeviceChoice, require, session_options
from graphsurgery.devices.vitisai import refuse_what_aborts
from graphsurgery.errors import InputError, MissingTool, ModelError, first_line
from graphsurgery.files.temporary import reserved
from graphsurgery.graph.model import Model
from graphsurgery.graph.names import clean_name
from graphsurgery.graph.protos import stored_outside

if TYPE_CHECKING:
    import onnxruntime as ort

_MADE_OF = "graphsurgery.made_of"
_MADE_FOR = "graphsurgery.part"
_FELL_BACK = "fallback to CPU EP has been explicitly disabled"


def open_session(
    source: ModelProto | Path,
    new_options: Callable[[], ort.SessionOptions],
    choice: DeviceChoice,
    *,
    name: str,
    allow_fallback: bool,
) -> ort.InferenceSession:
    """Load a model on the provider of `choice`; `name` says in messages which it is.

    Raises MissingTool when the provider is not here, InputError when a node would be left to the CPU, naming it and
    the provider's reason, and for what the provider is known to crash at; ModelError for what it can't compile.
    """
    import onnxruntime as ort

    require(choice, f"{name} on {choice.provider}")
    model = Model.load(source) if isinstance(source, Path) else Model(source)
    if choice.provider == "vitisai":
        refuse_what_aborts(model, name, allow_fallback=allow_fallback)

    def ready(entries: dict[str, str] | None = None) -> ort.SessionOptions:
        options = new_options()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "0" if allow_fallback else "1")
        for key, value in (entries or {}).items():
            options.add_session_config_entry(key, value)
        attach(options, choice, model, name)
        return loadable.options(options)

    loadable = Loadable.of(source, name)
    given = loadable.source
    try:
        if "context" not in choice.options:
            return ort.InferenceSession(given, ready(), enable_fallback=0)
        kept = _KeptContext.of(choice, model, name, new_options().graph_optimization_level.name)
        if kept.valid:
            with contextlib.suppress(Exception):  # of another driver, say: then it is compiled again
                return ort.InferenceSession(str(kept.path), ready(), enable_fallback=0)
        with kept.renewed() as path:
            entries = {"ep.context_enable": "1", "ep.context_embed_mode": "1", "ep.context_file_path": str(path)}
            return ort.InferenceSession(given, ready(entries), enable_fallback=0)
    except (InputError, MissingTool):
        raise
    except Exception as error:  # onnxruntime raises a dozen unrelated classes; none may reach the user raw
        if not allow_fallback and _FELL_BACK in str(error):
            from graphsurgery.devices.placement import place

            optimise = new_options().graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
            placement = place(model, choice, name=name, optimise=optimise)
            if placement.left:
                raise InputError(placement.complaint()) from error
        raise ModelError(f"{name}: {choice.provider} can't load it: {first_line(error)}") from error


class _KeptContext:
    """A compiled model in a file, which says what it was made of: model, options, versions of the compiler."""

    def __init__(self, path: Path, key: str, part: str) -> None:
        self.path, self._key, self._part = path, key, part

    @staticmethod
    def of(choice: DeviceChoice, model: Model, part: str, level: str) -> _KeptContext:
        """Return the place of the compiled `part`. Raises InputError when another part's lies in that file."""
        import onnxruntime as ort

        place = Path(choice.options["context"])
        plugin = importlib.import_module(choice.details.plugin) if choice.details.plugin else None
        parts = [model.fingerprint, sorted(session_options(choice).items()), level]
        parts += [ort.__version__, getattr(plugin, "__version__", "")]
        for tensor in stored_outside(model.proto):  # the fingerprint tells where these are, not what
            location = next(entry.value for entry in tensor.external_data if entry.key == "location")
            stat = ((model.folder or Path()) / location).stat()
            parts.append([location, stat.st_size, stat.st_mtime_ns])
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        kept = _KeptContext(place if place.suffix == ".onnx" else place / f"{clean_name(part)}.onnx", key, part)
        owner = kept._notes().get(_MADE_FOR)
        if owner is None and kept.path.exists():
            raise InputError(f"{part}: context={kept.path} is another file; give a place for what is compiled")
        if owner not in (None, part):
            raise InputError(f"{part}: context={place} keeps what {owner} was compiled to; give a folder")
        return kept

    @property
    def valid(self) -> bool:
        """Whether it is there and was made of the same."""
        return self._notes().get(_MADE_OF) == self._key

    def _notes(self) -> dict[str, str]:
        proto = ModelProto()
        try:
            proto.ParseFromString(self.path.read_bytes())
        except (OSError, DecodeError):
            return {}
        return {entry.key: entry.value for entry in proto.metadata_props}

    @contextlib.contextmanager
    def renewed(self) -> Iterator[Path]:
        """Yield a path to compile to; what is there afterwards takes the place of the old one."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with reserved(self.path.parent, self.path.suffix) as temporary:
                yield temporary
                if not temporary.exists():  # nothing was compiled: all of it fell back, which was allowed
                    return
                proto = ModelProto.FromString(temporary.read_bytes())
                for key, value in ((_MADE_OF, self._key), (_MADE_FOR, self._part)):
                    proto.metadata_props.append(StringStringEntryProto(key=key, value=value))
                temporary.write_bytes(proto.SerializeToString())
                temporary.replace(self.path)
        except OSError as error:
            raise InputError(
                f"{self._part}: context={self.path}: can't be written ({error.strerror or error})"
            ) from error
