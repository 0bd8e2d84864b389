"""A detector that was cut into parts, whole again.

    detector = Detector.load(Path("model/shapes"))
    detections = detector(image)          # boxes, labels, scores, masks on the original image

`player` plays the parts; this puts an image on the canvas before them, and what they find back on the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from graphsurgery.detections.decode import decode
from graphsurgery.detections.masks import of_labels
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.devices.providers import CPU, DeviceChoice, refuse_unknown_devices, require_installed
from graphsurgery.graph.joined_outputs import joined
from graphsurgery.images.batches import as_batch, of_first
from graphsurgery.images.canvas import Canvas, CanvasImage
from graphsurgery.images.other_inputs import OtherInput
from graphsurgery.parts.folder import read_parts
from graphsurgery.parts.manifest import Manifest
from graphsurgery.runtime.player import Chain
from graphsurgery.runtime.threads import Threads


@dataclass(frozen=True)
class Detector:
    """A detector made of parts: an image in, detections on that image out. `devices` says what plays them."""

    manifest: Manifest
    canvas: Canvas
    chain: Chain
    devices: Mapping[str, DeviceChoice] = field(default_factory=dict)

    @staticmethod
    def load(
        folder: Path,
        devices: Mapping[str, DeviceChoice] | None = None,
        *,
        threads: int | Threads = 0,
        spin: bool = True,
        allow_fallback: bool = False,
    ) -> Detector:
        """Load the parts in `folder`; `devices` maps device names of the manifest to providers, before what it says.

        `threads` are those of an operator on the CPU, of all parts or by part, 0 for ONNX Runtime's choice; without
        `spin` they sleep while another part works. Raises InputError for a folder without a valid manifest, with a part
        missing or another file in its place, and for a node that a provider would leave to the CPU unless
        `allow_fallback`; MissingTool for a provider that is not here.
        """
        counts = threads if isinstance(threads, Threads) else Threads(threads)

        def read(manifest: Manifest) -> Detector:
            refuse_unknown_devices(devices or {}, (part.device for part in manifest.parts), str(folder))
            counts.require_parts(part.name for part in manifest.parts)
            chosen = manifest.choose_devices(folder, devices or {})
            require_installed(chosen)
            canvas = Canvas.from_json(manifest.canvas)
            chain = Chain.open(folder, manifest, chosen, threads=counts, spin=spin, allow_fallback=allow_fallback)
            played_by = {part.device: chosen.get(part.device, CPU) for part in manifest.parts}
            return Detector(manifest, canvas, chain, played_by)

        return read_parts(folder, read)

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return boxes [M,4], labels [M], scores [M] and masks [M,1,h,w] (or keypoints) in pixels of `image`.

        `image` is uint8, h x w x 3. Masks are probabilities. Raises InputError for another shape or dtype, and where
        nobody says what the parts' outputs are.
        """
        placed = self.place(image)
        return placed.restore(self.on_canvas(placed))

    def place(self, image: np.ndarray) -> CanvasImage:
        """Put an image on the canvas. Raises as a call does."""
        self.manifest.require_detections("the parts give no boxes")
        return self.canvas.fit(image)

    def raw(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return the network's outputs, pieces joined, which needs nobody to say what they are.

        Raises as `Canvas.fit`.
        """
        return self.outputs(self.chain.play(self.inputs(self.canvas.fit(image))))

    @cached_property
    def postprocessing(self) -> Postprocessing | None:
        """How detections are read out of the outputs, None where they are called so."""
        return self.manifest.postprocessing

    def on_canvas(self, placed: CanvasImage) -> dict[str, np.ndarray]:
        """Return the network's own outputs: boxes in canvas pixels, and where there are masks, probabilities `masks`
        [M,1,m,m], or `masks_pasted` [M,1,H,W] that lie on the canvas already."""
        return self.detections(self.outputs(self.chain.play(self.inputs(placed))), placed)

    def inputs(self, placed: CanvasImage) -> dict[str, np.ndarray]:
        """Return what the chain is played on."""
        if self.manifest.normalise:
            image = self.canvas.normalise(placed.input)
        else:
            image = as_batch(self.canvas.image.apply(placed.input), self._image_shape)
        rows = len(image) if image.ndim == 4 else 1
        others = {other.name: other.of(placed.placement, rows) for other in self._other_inputs}
        return {self.manifest.input: image} | others

    @cached_property
    def _other_inputs(self) -> Sequence[OtherInput]:
        return self.manifest.other_inputs

    @cached_property
    def _image_shape(self) -> Sequence[int | str | None] | None:
        name = self.manifest.input
        shapes = [part.inputs[name].shape for part in self.manifest.parts if name in part.inputs]
        return next((shape for shape in shapes if shape is not None and len(shape) == 4), None)

    def outputs(self, played: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the network's outputs out of the chain's: pieces that a pass left are joined. Raises InputError where
        they don't fit."""
        return joined({name: played[name] for name in self.manifest.outputs}, self.manifest.joins)

    def detections(self, outputs: Mapping[str, np.ndarray], placed: CanvasImage) -> dict[str, np.ndarray]:
        """Return what the network's `outputs` say of an image, by the names of detections. Raises as `decode`."""
        return self.read(of_first(outputs, self._image_shape), placed)

    def read(self, outputs: Mapping[str, np.ndarray], placed: CanvasImage) -> dict[str, np.ndarray]:
        """Return the same for outputs that are of one image, no batch. Raises as `decode`."""
        found = dict(outputs)
        if self.postprocessing is not None:
            return decode(self.postprocessing, found, placed.placement)
        if self.manifest.masks is not None:
            found["masks"] = found.pop(self.manifest.masks)
        if "masks" in found and found["masks"].shape[-2:] == (self.canvas.height, self.canvas.width):
            found["masks_pasted"] = found.pop("masks")  # by the graph itself
        if "masks" in found and found["masks"].ndim == 4 and found["masks"].shape[1] > 1:
            every, labels = found["masks"], found["labels"]
            found["masks"] = of_labels(every, np.arange(len(labels)), labels, "masks")[:, None]
        return found

    def warm_up(self, image: np.ndarray, runs: int = 1) -> None:
        """Detect in an image and forget it, times included: the first runs of a session take longer."""
        for _ in range(runs):
            if self.manifest.detects:
                self(image)
            else:
                self.raw(image)
        for player in self.chain.players:
            player.timer.reset()

    @property
    def seconds(self) -> dict[str, float]:
        """Time spent in each part so far."""
        return {player.entry.name: player.seconds for player in self.chain.players}
