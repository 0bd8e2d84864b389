"""Small detectors of the structure of RT-DETR and DETR, built without a download: logits and boxes of queries.

The first three channels of a token say how red, green and blue its window of 16 x 16 pixels is, and nothing is added to
them: so the RT-DETR finds squares of these colours, by construction. All else are random weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

CANVAS, STRIDE, SIDE = 64, 8, 16  # pixels: of the image, between tokens, of a square
COLOURS = ("red", "green", "blue")
WIDTH, HEADS, POINTS, QUERIES = 24, 2, 4, 12
_CELLS = CANVAS // STRIDE


class Attention(nn.Module):
    """Attention with heads as transformers writes it, before a layer's sum; it adds nothing to the colours."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm = nn.LayerNorm(WIDTH)
        _spare_colours(self.out)

    def forward(self, tokens: Tensor, memory: Tensor, place: Tensor) -> Tensor:
        normed = self.norm(tokens)
        keys = normed if memory is tokens else memory
        query, key, value = (
            self._heads(each) for each in (self.query(normed), self.key(keys + place), self.value(keys))
        )
        weights = (query @ key.transpose(2, 3) * (WIDTH // HEADS) ** -0.5).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).reshape(1, -1, WIDTH))

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(1, -1, HEADS, WIDTH // HEADS).transpose(1, 2)


class Sampling(nn.Module):
    """RT-DETR's attention to few points around a query's anchor, which it reads from two levels of the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets, self.weights = nn.Linear(WIDTH, HEADS * 2 * POINTS * 2), nn.Linear(WIDTH, HEADS * 2 * POINTS)
        self.value, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        _spare_colours(self.out)

    def forward(self, queries: Tensor, memory: Tensor, anchors: Tensor) -> Tensor:
        values = self.value(memory).transpose(1, 2).reshape(HEADS, -1, _CELLS, _CELLS)
        offsets = self.offsets(queries).reshape(QUERIES, HEADS, 2, POINTS, 2)
        centres = 2 * anchors.sigmoid()[0, :, None, None, None, :2] - 1
        grids = (centres + offsets / _CELLS).transpose(0, 1)
        seen = [
            nn.functional.grid_sample(level, grids[:, :, place], align_corners=False)
            for place, level in enumerate((values, nn.functional.avg_pool2d(values, 2)))
        ]
        weights = self.weights(queries).reshape(QUERIES, HEADS, 2 * POINTS).softmax(-1).transpose(0, 1)
        return self.out((torch.cat(seen, -1) * weights[:, None]).sum(-1).reshape(1, WIDTH, QUERIES).transpose(1, 2))


class FeedForward(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.wide, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        _spare_colours(self.out)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(nn.functional.gelu(self.wide(self.norm(tokens))))


class Encoder(nn.Module):
    """A backbone of two Convs and a layer of attention over its cells: [1, 64, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, WIDTH, 4, 4), nn.Conv2d(WIDTH, WIDTH, 4, 2, 1)
        with torch.no_grad():
            for conv, weights in ((self.stem, (torch.eye(3) * 1.5 - 0.5) / 16), (self.down, torch.eye(3) / 16)):
                conv.weight[:3], conv.bias[:3] = 0, 0
                conv.weight[:3, :3] = weights[:, :, None, None]
        self.attention, self.feed = Attention(), FeedForward()
        self.place = nn.Parameter(torch.randn(1, _CELLS**2, WIDTH) * 0.5)

    def forward(self, image: Tensor) -> Tensor:
        cells = self.down(self.stem(image).relu()).relu()
        tokens = cells.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, self.place)
        return tokens + self.feed(tokens)


class Decoder(nn.Module):
    """A layer of attention among queries, and of theirs to the memory at `places`: anchors, or added to keys."""

    def __init__(self, across: nn.Module) -> None:
        super().__init__()
        self.among, self.across, self.feed = Attention(), across, FeedForward()

    def forward(self, queries: Tensor, memory: Tensor, own: Tensor, places: Tensor) -> Tensor:
        queries = queries + self.among(queries, queries, own)
        queries = queries + self.across(queries, memory, places)
        return queries + self.feed(queries)


class RtDetr(nn.Module):
    """The encoder's best tokens are the queries; boxes are theirs, moved a little."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder(Sampling())
        self.seen, self.scores, self.moves = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 4)
        with torch.no_grad():
            for head in (self.seen, self.scores):
                head.weight *= 0.4
                head.weight[:, :3] = torch.eye(3) * 12
                head.bias.fill_(-9)
            self.moves.weight *= 0.05
            self.moves.bias.zero_()
        centre = (torch.arange(_CELLS) + 0.5) / _CELLS
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        size = torch.full_like(x, SIDE / CANVAS)
        self.anchors = nn.Parameter(torch.logit(torch.stack([x, y, size, size], -1).reshape(1, -1, 4)))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.encoder(pixel_values)
        places = self.seen(memory).max(-1).values.topk(QUERIES, 1).indices[..., None]
        queries = memory.gather(1, places.repeat(1, 1, WIDTH))
        anchors = self.anchors.gather(1, places.repeat(1, 1, 4))
        found = self.decoder(queries, memory, queries * 0.5, anchors)
        return self.scores(found), (anchors + self.moves(found)).sigmoid()


class Detr(nn.Module):
    """Queries are learned, and one class more than there are is "no object"."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder(Attention())
        self.queries = nn.Parameter(torch.randn(1, QUERIES, WIDTH) * 2)
        self.scores, self.boxes = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 4)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.encoder(pixel_values)
        found = self.decoder(self.queries, memory, self.queries, self.encoder.place)
        return self.scores(found), self.boxes(found).sigmoid()


def _spare_colours(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight[:3], layer.bias[:3] = 0, 0


def write_network(kind: type[nn.Module], path: Path, opset: int = 17) -> Path:
    """Export a network of a seed of its own, as transformers' users do: names and a fixed size, TorchScript's exporter.

    D-FINE and RF-DETR differ from RT-DETR in what their layers hold, which is no matter of where it is cut.
    """
    torch.manual_seed(0)
    image = torch.rand(1, 3, CANVAS, CANVAS)
    names = {"input_names": ["pixel_values"], "output_names": ["logits", "pred_boxes"]}
    torch.onnx.export(kind().eval(), (image,), path, dynamo=False, opset_version=opset, **names)
    return path


def write_squares(folder: Path, count: int = 6) -> tuple[Path, Path]:
    """Write images with one to three squares, each around a token, and their annotations; return both."""
    images = folder / "squares"
    images.mkdir(parents=True)
    random, entries, objects = np.random.default_rng(0), [], []
    for number in range(1, count + 1):
        pixels = random.integers(0, 24, (CANVAS, CANVAS, 3), np.uint8)
        corners = random.permutation([(x, y) for x in (4, 36) for y in (4, 36)])[: 1 + number % 3]
        for x, y in corners.tolist():
            label = int(random.integers(3))
            pixels[y : y + SIDE, x : x + SIDE] = np.eye(3, dtype=np.uint8)[label] * 255
            box = {"bbox": [x, y, SIDE, SIDE], "area": SIDE**2, "iscrowd": 0}
            objects.append({"id": len(objects) + 1, "image_id": number, "category_id": label + 1, **box})
        Image.fromarray(pixels).save(images / f"{number}.png")
        entries.append({"id": number, "file_name": f"{number}.png", "height": CANVAS, "width": CANVAS})
    categories = [{"id": place + 1, "name": name} for place, name in enumerate(COLOURS)]
    annotations = folder / "squares.json"
    annotations.write_text(json.dumps({"images": entries, "annotations": objects, "categories": categories}), "utf-8")
    return images, annotations
