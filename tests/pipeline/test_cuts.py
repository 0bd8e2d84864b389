"""apply, for recipes that cut at tensors, behind raw head outputs, and where a target runs more than others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from bars import write_images
from conftest import Cli, Outcome
from partition.cutting import with_weights
from partition.networks import (
    DETR,
    DETR_WEIGHTS,
    RT_DETR,
    RT_DETR_WEIGHTS,
    YOLO,
    YOLO_DFL,
    YOLO_PLAIN_WEIGHTS,
    YOLO_WEIGHTS,
)

NETWORKS = {
    "yolo": (YOLO, YOLO_PLAIN_WEIGHTS),
    "yolo_dfl": (YOLO_DFL, YOLO_WEIGHTS),
    "detr": (DETR, DETR_WEIGHTS),
    "rt_detr": (RT_DETR, RT_DETR_WEIGHTS),
}


def applied(cli: Cli, folder: Path, network: str, partition: Mapping[str, Any], **more: Any) -> Outcome:
    """Apply a recipe with a partition to one of the networks, on two images."""
    text, weights = NETWORKS[network]
    onnx.save(with_weights(text, weights).proto, folder / "net.onnx")
    images, _ = write_images(folder, 2)
    recipe = {
        "source": {"onnx": "net.onnx"},
        "image": {"range": 1, "layout": "NCHW"},
        "capture": {"images": images.name, "samples": 2},
        "partition": dict(partition),
        **more,
    }
    (folder / "net.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return cli("apply", folder / "net.yaml", "--out", folder / "parts", "--model-io", folder / "io")


def run_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "parts" / "run.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    ("network", "partition", "parts"),
    [
        ("yolo", {"at": "detections", "parts": {"net": "npu", "decode": "cpu"}}, [True, False]),
        ("yolo_dfl", {"at": "detections", "parts": {"net": "npu", "decode": "cpu"}}, [True, False]),
        ("yolo_dfl", {"at": {"tensors": ["cat_*"]}, "parts": {"net": "npu", "decode": "cpu"}}, [True, False]),
        (
            "detr",
            {"at": {"tensors": ["memory"]}, "parts": {"encoder": "npu", "decoder": "npu", "boxes": "cpu"}},
            [True, True, False],
        ),
        (
            "detr",
            {"at": {"tensors": ["memory"]}, "parts": {"encoder": "npu", "decoder": "cpu", "boxes": "cpu"}},
            [True, True, False],
        ),
        ("rt_detr", {"at": "GatherElements", "parts": {"encoder": "npu", "decoder": "cpu"}}, [True, False]),
        (
            "rt_detr",
            {
                "at": ["TopK", "GatherElements"],
                "supported": ["Gather", "Tile"],
                "parts": {"encoder": "npu", "choice": "cpu", "decoder": "npu", "boxes": "cpu"},
            },
            [True, False, True, False],
        ),
    ],
)
def test_the_parts_pass_their_checks(
    cli: Cli, tmp_path: Path, network: str, partition: dict[str, Any], parts: list[bool]
) -> None:
    outcome = applied(cli, tmp_path, network, partition)
    assert outcome.code == 0, outcome.err
    run = run_of(tmp_path)
    assert [part["accelerator"] for part in run["parts"]] == parts
    assert {step["verdict"] for step in run["checks"]} == {"passed"}


def test_a_node_between_weights_is_named_with_what_helps(cli: Cli, tmp_path: Path) -> None:
    partition = {"at": ["TopK", "GatherElements"], "supported": ["Tile"], "parts": {"a": "npu"}}
    outcome = applied(cli, tmp_path, "rt_detr", partition)
    assert outcome.code == 2
    assert "node 'g' (Gather) stands between the weights of one part" in outcome.last_line
    assert (
        "passes that look at Gather: lower-column-gather, lower-gather; cut there: partition.at: " in outcome.last_line
    )


def test_a_variant_that_joins_ranges_too_far_apart_is_warned_of(cli: Cli, tmp_path: Path) -> None:
    plan = {"at": {"tensors": ["out"]}, "parts": {"net": "npu"}}
    int8 = {"part_passes": {"net": ["quantize"]}}
    grant = {"grant": {"quantize": {"*": {"sqnr": 0}}}}
    outcome = applied(cli, tmp_path, "yolo", plan, variants={"int8": int8}, check=grant)
    assert outcome.code == 0, outcome.err
    assert "warning: int8, net: 'out' joins boxes (" in outcome.err
    (step,) = run_of(tmp_path)["variants"]["int8"]["passes"]
    (joined,) = step["details"]["joined"]
    assert (joined["tensor"], joined["cut"]) == ("out", ["boxes", "scores"])
    report = (tmp_path / "parts" / "report.html").read_text(encoding="utf-8")
    assert "&#39;out&#39; joins boxes (" in report
