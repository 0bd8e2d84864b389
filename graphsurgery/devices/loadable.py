"""What ONNX Runtime is given to load: a path, or bytes and the folder from which it maps the weights itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.message import EncodeError
from onnx import ModelProto

from graphsurgery.errors import ModelError, first_line
from graphsurgery.graph import outside
from graphsurgery.graph.protos import without_initializers

if TYPE_CHECKING:
    import onnxruntime as ort

_FOLDER = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True)
class Loadable:
    """The model for a session, and the folder that its weights lie in, where bytes can't tell."""

    source: str | bytes
    folder: Path | None = None

    def options(self, options: ort.SessionOptions) -> ort.SessionOptions:
        """Return `options` with that folder."""
        if self.folder is not None:
            options.add_session_config_entry(_FOLDER, str(self.folder))
        return options

    @staticmethod
    def of(model: ModelProto | Path, name: str) -> Loadable:
        """Return what stands for `model`; raises as `packed`."""
        return Loadable(str(model)) if isinstance(model, Path) else Loadable(*packed(model, name))


def packed(model: ModelProto, name: str) -> tuple[bytes, Path | None]:
    """Return `model` as bytes, and the folder from which its weights with bound references are mapped, if it has any.

    Raises ModelError for a model that needs more than the 2 GB of one message, and for files on several drives.
    """
    files = list(outside.files_of(model))
    if not files:
        return _bytes(model, name), None
    try:  # ONNX Runtime takes no file from outside of the one folder
        folder = Path(os.path.commonpath({file.parent for file in files}))
    except ValueError as error:
        raise ModelError(
            f"{name}: its weights lie on several drives; write the parts to the drive of the model"
        ) from error
    return _bytes(_beside(model, folder), name), folder


def _bytes(model: ModelProto, name: str) -> bytes:
    try:
        data: bytes = model.SerializeToString()
    except (ValueError, EncodeError) as error:
        raise ModelError(
            f"{name}: {outside.inside_size(model) / 1e9:.1f} GB of its weights are in no file, and ONNX Runtime takes "
            f"no more than 2 GB so: {first_line(error)}"
        ) from error
    return data


def _beside(model: ModelProto, folder: Path) -> ModelProto:
    """Return `model` with references as a file in `folder` has them."""
    made = without_initializers(model)
    for tensor in model.graph.initializer:
        made.graph.initializer.append(tensor)
        if outside.is_bound(tensor):
            outside.refer(made.graph.initializer[-1], folder)
    return made
