"""Small detectors of transformers with random weights: the released ones with narrow layers, and no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

CANVAS, QUERIES = 128, 20
_PYRAMID = {
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [16, 24, 32],
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "d_model": 32,
    "num_queries": QUERIES,
    "decoder_in_channels": [32] * 3,
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "num_labels": 3,
    "num_denoising": 0,
    "anchor_image_size": [CANVAS, CANVAS],
}
_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}


def rtdetr() -> nn.Module:
    levels = ["stage2", "stage3", "stage4"]
    backbone = transformers.RTDetrResNetConfig(**_RESNET, out_features=levels)
    return transformers.RTDetrForObjectDetection(transformers.RTDetrConfig(backbone_config=backbone, **_PYRAMID))


def dfine() -> nn.Module:
    backbone = transformers.HGNetV2Config(
        stem_channels=[3, 8, 8],
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        stage_in_channels=[8, 8, 16, 24],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 16, 24, 32],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )
    own = {"max_num_bins": 8, "lqe_hidden_dim": 8, "decoder_n_points": [2, 2, 2], "depth_mult": 0.34}
    return transformers.DFineForObjectDetection(transformers.DFineConfig(backbone_config=backbone, **own, **_PYRAMID))


def detr() -> nn.Module:
    layers = {f"{half}_{what}": 2 for half in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        backbone_config=transformers.ResNetConfig(**_RESNET, out_features=["stage4"]),
        d_model=32,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=QUERIES,
        num_labels=3,
        **layers,
    )
    return transformers.DetrForObjectDetection(config)


def rfdetr() -> nn.Module:
    backbone = transformers.RfDetrDinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=CANVAS,
        patch_size=16,
        out_features=["stage2", "stage4"],
        num_windows=2,
        num_register_tokens=0,
    )
    config = transformers.RfDetrConfig(
        backbone_config=backbone,
        c2f_num_blocks=1,
        d_model=32,
        decoder_ffn_dim=32,
        decoder_layers=2,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        decoder_n_points=2,
        num_queries=QUERIES,
        group_detr=1,
        num_labels=3,
    )
    network = transformers.RfDetrForObjectDetection(config)
    for module in network.modules():  # at its own size there is nothing to interpolate, and no operator for it
        if hasattr(module, "interpolate_pos_encoding"):
            module.interpolate_pos_encoding = lambda *_, own=module: own.position_embeddings
    return network


class Outputs(nn.Module):
    """Logits and boxes out of all that the network gives; of RF-DETR in the order of its own package."""

    def __init__(self, network: nn.Module, boxes_first: bool) -> None:
        super().__init__()
        self.network, self.boxes_first = network, boxes_first

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        given: Any = self.network(pixel_values=pixel_values)
        return (given.pred_boxes, given.logits) if self.boxes_first else (given.logits, given.pred_boxes)


def write(kind: str, path: Path) -> Path:
    """Export the network `kind` with random weights that keep the spread of what they read, so that scores differ."""
    torch.manual_seed(0)
    network = {"rtdetr": rtdetr, "dfine": dfine, "detr": detr, "rfdetr": rfdetr}[kind]().eval()
    for name, weight in network.named_parameters():
        if "position_embeddings" in name:
            nn.init.normal_(weight)
        elif weight.dim() > 1:
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
    image = torch.rand(1, 3, CANVAS, CANVAS)
    names = ["dets", "labels"] if kind == "rfdetr" else ["logits", "pred_boxes"]
    asked: Any = {"input_names": ["input"], "output_names": names, "opset_version": 17, "dynamo": False}
    torch.onnx.export(Outputs(network, kind == "rfdetr"), (image,), path, **asked)
    return path
