"""ONNX graph surgery by recipe: rewrite passes, a numeric check after each, and parts for NPU and CPU.

    import graphsurgery
    detector = graphsurgery.load("model/shapes")
    detections = detector(image)                   # uint8, height x width x 3

Importing this package imports neither torch nor onnxruntime nor onnxsim.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphsurgery.version import __version__

if TYPE_CHECKING:
    from graphsurgery.runtime.detector import Detector

__all__ = ["__version__", "load"]

# In a checkout the rewrites and recipes stand beside this package, as passes/ and recipes/; a wheel carries them
# inside it. Either way they are graphsurgery.passes and graphsurgery.recipes, never a top-level `passes`.
_CHECKOUT = Path(__file__).resolve().parent.parent
if (_CHECKOUT / "passes").is_dir() and (_CHECKOUT / "pyproject.toml").is_file():
    __path__.append(str(_CHECKOUT))


def load(folder: str | Path, devices: dict[str, str] | None = None) -> Detector:
    """Load the parts in `folder` (what ``apply`` wrote) so that they can be played on images.

    `devices` maps the manifest's device names to execution providers, with options as --device has them
    ({"npu": "qnn,soc_model=60"}); what is not named runs as the manifest says, on the cpu where that says nothing.
    Raises InputError when the folder holds no valid manifest, MissingTool when a provider is not available.
    """
    from graphsurgery.devices.choices import parse_devices
    from graphsurgery.runtime.detector import Detector

    return Detector.load(Path(folder), parse_devices(f"{name}={value}" for name, value in (devices or {}).items()))
