"""Builds a detector of torchvision or the demo with weights, for one fixed canvas."""

from __future__ import annotations

import hashlib
import pickle
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import detection, get_model, get_model_weights, list_models
from torchvision.models.detection._utils import overwrite_eps
from torchvision.ops import FrozenBatchNorm2d

from graphsurgery.demo.checkpoint import CHECKPOINTS
from graphsurgery.demo.network import shapes_maskrcnn
from graphsurgery.demo.shapes import CATEGORIES, HEIGHT, WIDTH, draw
from graphsurgery.demo.yolo import STRIDES, ShapesYolo, shapes_yolo
from graphsurgery.errors import InputError, MissingTool, first_line, nearest
from graphsurgery.images.canvas import Canvas
from graphsurgery.sources.quiet import quiet
from graphsurgery.sources.random_weights import calibrate
from graphsurgery.sources.source import SourceSpec
from graphsurgery.sources.torch_threads import torch_threads

_DEMOS: Mapping[str, Callable[..., Any]] = {"shapes": shapes_maskrcnn, "shapes_yolo": shapes_yolo}
_RANDOM = re.compile(r"random:(\d{1,18})")
_FILES = (".pth", ".pt", ".safetensors")
_DEFAULT_CLASSES = 91
_EPSILON_0 = (
    "fasterrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
)
_DOWNLOAD_SECONDS = 30.0
# Rows of these grow with the number of classes.
_CLASS_LAYERS = (
    "roi_heads.box_predictor.cls_score.bias",
    "head.classification_head.cls_logits.bias",
    "head.classification_head.module_list.0.bias",
    "head.classification_head.module_list.0.1.bias",
)


def build(spec: SourceSpec) -> tuple[Any, Canvas]:
    """Return the network of a torchvision or demo spec in evaluation mode, and its canvas.

    Its transform then passes an image of the canvas without a resize. Nothing but an enum name is ever downloaded.
    Raises InputError for an unknown builder, size or weights, MissingTool when a download fails.
    """
    construct = _demo(spec) if spec.kind == "demo" else _torchvision(spec)
    if spec.weights is None:
        if spec.kind != "demo":
            raise InputError(
                f"source.weights: {spec.name} needs weights; give a name such as COCO_V1, a file, or random:0"
            )
        model = construct(weights=CHECKPOINTS[spec.name])
        canvas = fix_size(model, spec)
    elif spec.weights.startswith("random:"):
        model, canvas = _random(construct, spec, spec.weights)
    elif spec.weights.endswith(_FILES):
        path = spec.folder / spec.weights
        model = _from_file(construct, spec, path)
        canvas = fix_size(model, spec)
    else:
        model = _download(spec, spec.weights)
        canvas = fix_size(model, spec)
    model.eval()
    model.requires_grad_(False)
    return model, canvas


def fix_size(model: Any, spec: SourceSpec) -> Canvas:
    """Set the transform of `model` so that an image of `spec.size` isn't resized, and return that canvas."""
    if isinstance(model, ShapesYolo):
        height, width = spec.size or (HEIGHT, WIDTH)
        _require_multiples(height, width, STRIDES[-1])
        model.set_size(height, width)
        return Canvas(height, width)
    transform = model.transform
    if spec.size is not None:
        height, width = spec.size
    elif transform.fixed_size is not None:
        width, height = transform.fixed_size
    elif spec.kind == "demo":
        height, width = HEIGHT, WIDTH
    else:
        raise InputError(f"source.size: {spec.name} needs a fixed size; write size: [height, width]")
    _require_multiples(height, width, transform.size_divisible)
    has_own_size = transform.fixed_size is not None
    # Not by min_size and max_size: their scale is size * (1/size) in float32 once exported, which is below 1 for some
    # sizes (1312, 1504, ...), and the graph would shrink the image by a pixel.
    transform.fixed_size = (width, height)
    _assert_unresized(model, spec.name, height, width, try_backbone=has_own_size)
    return Canvas(height, width, tuple(transform.image_mean), tuple(transform.image_std))


def _require_multiples(height: int, width: int, step: int) -> None:
    for value in (height, width):
        if value < 1 or value % step:
            near = dict.fromkeys(max(step, multiple) for multiple in (value // step * step, -(-value // step) * step))
            raise InputError(f"source.size: {value} is no multiple of {step}; take {' or '.join(map(str, near))}")


@torch.no_grad()
def _assert_unresized(model: Any, name: str, height: int, width: int, *, try_backbone: bool) -> None:
    model.eval()
    batch, _ = model.transform([torch.zeros(3, height, width)])
    if batch.tensors.shape[-2:] != (height, width):
        seen = tuple(batch.tensors.shape[-2:])
        raise InputError(f"source.size: {name} resizes {height}x{width} to {seen}; take another size")
    if not try_backbone:  # a feature pyramid takes any multiple of 32, SSD's backbone shrinks further
        return
    try:
        model.backbone(batch.tensors)
    except RuntimeError as error:
        raise InputError(f"source.size: {height}x{width} is too small for {name} ({first_line(error)})") from error


def sample_image(seed: int, index: int, canvas: Canvas) -> Tensor:
    """Draw a shapes image, every other one upright, and return it on the canvas, float [3, H, W] in 0..1."""
    size = (WIDTH, HEIGHT) if index % 2 else (HEIGHT, WIDTH)
    return torch.from_numpy(canvas.fit(draw(seed, index, size=size, objects=4).image).input)


def _demo(spec: SourceSpec) -> Callable[..., Any]:
    if spec.name not in _DEMOS:
        raise InputError(f"source.demo: there is no demo '{spec.name}'; write demo: {' or demo: '.join(_DEMOS)}")
    return _DEMOS[spec.name]


def _torchvision(spec: SourceSpec) -> Callable[..., Any]:
    known = list_models(module=detection)
    if spec.name not in known:
        close = nearest(spec.name, known) or known
        raise InputError(f"source.torchvision: no detector '{spec.name}' in torchvision; there is {', '.join(close)}")

    def construct(**options: Any) -> Any:
        return get_model(spec.name, weights=None, weights_backbone=None, **options)

    return construct


def _random(construct: Callable[..., Any], spec: SourceSpec, weights: str) -> tuple[Any, Canvas]:
    match = _RANDOM.fullmatch(weights)
    if match is None:
        raise InputError(f"source.weights: '{weights}' has no seed; write random: and a whole number, such as random:0")
    seed = int(match.group(1))
    # one thread, as the last bits of what is measured depend on their number: a seed is one network on any machine
    # whose processor is of the same kind
    with torch.random.fork_rng(devices=[]), torch_threads(1):
        torch.manual_seed(seed)
        model = construct()
        canvas = fix_size(model, spec)
        # Small images cost little and cover little.
        count = max(3, min(8, 8 * HEIGHT * WIDTH // (canvas.height * canvas.width)))
        calibrate(model, [sample_image(seed, index, canvas) for index in range(count)])
    _freeze_batchnorm(spec, model)
    return model, canvas


def _download(spec: SourceSpec, weights: str) -> Any:
    if spec.kind == "demo":
        raise InputError(
            f"source.weights: '{weights}' is neither a .pth or .safetensors file nor random:<seed>; "
            f"without weights the demo has its own"
        )
    known = get_model_weights(spec.name)
    if weights not in known.__members__:
        names = ", ".join(known.__members__)
        raise InputError(
            f"source.weights: {spec.name} has no weights '{weights}'; it has {names}, "
            f"or give a .pth or .safetensors file, or random:<seed>"
        )
    try:
        with quiet(), _patience(_DOWNLOAD_SECONDS):
            return get_model(spec.name, weights=known[weights], weights_backbone=None, progress=False)
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the file's hash is not the one in its name
        raise MissingTool(
            f"source.weights: {weights} of {spec.name} can't be downloaded ({first_line(error)}); give a .pth or "
            f".safetensors file instead, or random:<seed> for random weights"
        ) from error


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Let connections fail after `seconds` without an answer: torch.hub sets no timeout, and would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _from_file(construct: Callable[..., Any], spec: SourceSpec, path: Path) -> Any:
    """Build the network for the number of classes that a checkpoint has, and load it."""
    state = _read(path)
    model = construct()
    if spec.kind == "torchvision":
        classes = _classes(model, state)
        if classes is not None:
            model = construct(num_classes=classes)
        _freeze_batchnorm(spec, model)
        if _is_original_v1(spec, path):
            overwrite_eps(model, 0.0)
    _load(model, state, f"{path}: not the weights of {spec.name}:")
    return model


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"source.weights: {path}: no such file; give a .pth or .safetensors file, or random:<seed>")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than tensors, or is damaged; save the state dict alone: torch.save(model.state_dict())"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"{path}: can't be read as weights ({first_line(error)}); is it complete?") from error
    # torchvision's training script wraps the state dict.
    state = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: no state dict; save one by torch.save(model.state_dict())")
    return dict(state)


def _load(model: nn.Module, state: dict[str, Tensor], complaint: str) -> None:
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        for name in expected.keys() & state.keys():
            if expected[name] != state[name].shape:
                seen, wanted = list(state[name].shape), list(expected[name])
                raise InputError(f"{complaint} '{name}' is {seen}, should be {wanted}") from error
        missing = [name for name in expected if name not in state]
        if missing:
            raise InputError(f"{complaint} '{missing[0]}' and {len(missing) - 1} others are missing") from error
        extra = [name for name in state if name not in expected]
        named = f"'{extra[0]}' and {len(extra) - 1} others are too many" if extra else first_line(error)
        raise InputError(f"{complaint} {named}") from error


def _classes(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes of a checkpoint, background included, if it isn't that of `model`."""
    ours = model.state_dict()
    for name in _CLASS_LAYERS:
        if name in ours and name in state and len(ours[name]) != len(state[name]):
            if name.startswith("roi_heads"):
                return len(state[name])
            classes, rest = divmod(_DEFAULT_CLASSES * len(state[name]), len(ours[name]))
            return classes if rest == 0 else None
    return None


def _freeze_batchnorm(spec: SourceSpec, model: Any) -> None:
    """Put FrozenBatchNorm2d into the backbone where torchvision's trained network has it, with the same values.

    Its builders of the first version, those whose names end in _fpn, do so only when they load weights themselves.
    """
    if not spec.name.endswith("_fpn"):
        return
    for parent in list(model.backbone.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
                frozen.load_state_dict(norm.state_dict())
                setattr(parent, name, frozen)


def _is_original_v1(spec: SourceSpec, path: Path) -> bool:
    """Tell whether a file is torchvision's own COCO_V1, for which its builders set the epsilon of BatchNorm to 0.

    The file's name on the server ends in the first digits of its SHA-256.
    """
    if spec.name not in _EPSILON_0:
        return False
    digits = Path(get_model_weights(spec.name)["COCO_V1"].url).stem.rpartition("-")[2]
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(digits)


def class_names(model: Any, spec: SourceSpec) -> list[str] | None:
    """Return the names of the labels from 0 on: the demo's, or those of the builder's own weights if as many."""
    if spec.kind == "demo":
        return ["background", *(CATEGORIES[label] for label in sorted(CATEGORIES))]
    names: list[str] = get_model_weights(spec.name).DEFAULT.meta["categories"]
    if hasattr(model, "roi_heads"):
        count = model.roi_heads.box_predictor.cls_score.out_features
    else:
        head = model.head.classification_head
        count = getattr(head, "num_classes", None) or head.num_columns
    return list(names) if len(names) == count else None
