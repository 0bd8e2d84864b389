"""Every detector that torchvision builds, through every exact pass there is, one after another.

What comes out at the end is compared with the original. With EACH=1 in the environment so is what every single pass
gives, of all proposals and detections, which takes more than ten times as long (and names the pass, should one break
something). With SEEDS=1 Mask R-CNN is taken with ten sets of weights, of which some give detections of nearly equal
score.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from every_pass import FIRST, EveryPass, exact_passes, steps_of

from graphsurgery.capture.take import embedded_samples

pytest.importorskip("torchvision")
pytestmark = pytest.mark.whole

SMALL = (64, 96)  # height and width; the networks are those of full size
SIZES = {"ssd300_vgg16": (300, 300), "ssdlite320_mobilenet_v3_large": (320, 320)}
BUILDERS = (
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)
RECIPE = """\
source: {{torchvision: {builder}, weights: 'random:0', size: [{height}, {width}]}}
passes: [{{freeze-shapes: {{batch: 1}}}}, drop-preprocessing, {passes}]  # the first make way for the others
check:
  tolerance:
    boxes: 2.0e-2
    labels: 0
    scores: 1.0e-3
    {more}
"""


# the default of torchvision is 1,000 proposals and 100 detections, whose heads take nearly all of the time
FEW_ROWS = {"rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_test": 200, "box_detections_per_img": 20}


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let detectors of two stages have few proposals and detections, without EACH; their graphs have the same nodes."""
    if os.environ.get("EACH"):
        return
    from graphsurgery.sources import networks

    build = networks.get_model

    def with_few_rows(name: str, **options: Any) -> Any:
        return build(name, **options, **(FEW_ROWS if "rcnn" in name else {}))

    monkeypatch.setattr(networks, "get_model", with_few_rows)


# masks and keypoints hang on the boxes' last bits, as in recipes/maskrcnn.yaml and recipes/keypointrcnn.yaml
TOLERANCES = {
    "mask": "masks: 5.0e-3\n    masks_pasted: 5.0e-3",
    "keypoint": "keypoints: 1.0e-2\n    keypoints_scores: 5.0e-3",
}


def test_no_builder_is_forgotten() -> None:
    from torchvision.models import detection, list_models

    assert sorted(BUILDERS) == sorted(list_models(module=detection))


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("builder", BUILDERS)
def test_a_detector_stays_equal_through_all_exact_passes(tmp_path: Path, builder: str) -> None:
    height, width = SIZES.get(builder, SMALL)
    more = next((text for kind, text in TOLERANCES.items() if builder.startswith(kind)), "")
    *before, simplify = FIRST
    if os.environ.get("EACH"):
        names, passes = [simplify, *exact_passes()], ", ".join([simplify, *exact_passes()])
    else:
        names, passes = [EveryPass.name], f"{{{EveryPass.name}: {{first: [{simplify}]}}}}"
    content = RECIPE.format(builder=builder, height=height, width=width, passes=passes, more=more)
    recipe = tmp_path / "every.yaml"
    recipe.write_text(content, "utf-8")
    steps = steps_of(str(recipe), embedded_samples(1), tmp_path)
    assert {step.name for step in steps} == {*before, *names}
    assert {step.verdict for step in steps} == {"passed"}


@pytest.mark.skipif(not os.environ.get("SEEDS"), reason="takes half a minute for each seed; set SEEDS=1")
@pytest.mark.parametrize("seed", range(10))
def test_no_weights_of_mask_rcnn_raise_a_false_alarm(tmp_path: Path, seed: int) -> None:
    height, width = 128, 160
    more = TOLERANCES["mask"]
    content = RECIPE.format(builder="maskrcnn_resnet50_fpn", height=height, width=width, passes="simplify", more=more)
    recipe = tmp_path / "every.yaml"
    recipe.write_text(content.replace("random:0", f"random:{seed}"), "utf-8")
    assert [(step.name, step.verdict) for step in steps_of(str(recipe), embedded_samples(2), tmp_path)] == [
        (n, "passed") for n in FIRST
    ]
