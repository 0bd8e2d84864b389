"""Fuse the RoiAlign on each level of a feature pyramid into one RoiExtractor, the operator that Ascend's compiler has.

    level = 2 + floor(log2(size / 112)), on each level i: NonZero(level == i), Gather or GatherND of these regions,
    RoiAlign, ScatterElements or ScatterND into the rows of all regions
        ->  RoiExtractor(features of each level, regions)

torchvision and detectron2 export the above; mmdetection multiplies regions and what is pooled of them by 0 or 1, and
adds the levels up, which becomes the same. Numbers of rows that depend on the image are gone. The rule is not read but
asked: the graph says which level regions of many sizes have, so it may be written in any way.

    fuse-roi-extractor: {aligned: false}

What differs, as the operator is defined (graphsurgery/custom_ops/roi_extractor.py):
- a region of just the size where a level ends, or a float16's rounding beside it, is of the level below, not above
- where regions are moved by half a cell, one that is smaller than a cell counts as one of a cell
- with `aligned` another than the file has, all regions are half a cell off. Ascend's recipes write false for networks
  that were trained with true; files of operator sets below 16 hold false for such a network, and true repairs them.

It does not fire when
1. the levels are no such pool: the rows that are read and written, or the masks, are not those of one level; or nothing
   tells the shapes of what they hold, which exporters compute: put `simplify` before it, and below operator set 13,
   where shapes that nodes compute stay unknown, `raise-opset` before that
2. the sizes at which levels end don't double, or aren't twice a whole number of pixels to begin with
3. the levels pool by the maximum, not in squares, or not all in the same way
4. one of the levels in between is read elsewhere too
5. a region is moved by anything else than half a cell
6. the operator set is below 11
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, is_op
from graphsurgery.operators.pyramid_levels import require_doubling_levels
from graphsurgery.operators.pyramid_pools import LevelPool, masked_pools, scattered_pool
from graphsurgery.operators.scattered_rows import SCATTERS, filled, levels_written, shapes_asked
from graphsurgery.rewrite import Editor, NodePass, Refuse

_OPSET = 11  # the operator set from which on RoiExtractor can be written in operators of ONNX, and so be checked


@dataclass(frozen=True)
class FuseRoiExtractor(NodePass):
    """`aligned` is whether regions are moved by half a cell; as in the file if not given."""

    name = "fuse-roi-extractor"
    effect = "approximate"
    matches = (*SCATTERS, "Add")

    aligned: bool | None = None

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        scatters = levels_written(node) if is_op(node, *SCATTERS) else []
        found = [scattered_pool(each, edit) for each in scatters] if scatters else masked_pools(node, edit)
        pools = sorted((pool for pool in found if pool is not None), key=lambda pool: pool.number)
        if not pools:
            return
        if len(pools) < len(scatters):
            raise Refuse("not all the rows that it holds are pooled by RoiAlign")
        attributes = self._attributes(pools, edit)
        asked = [reader for level in scatters[1:] for reader in shapes_asked(level, scatters, edit)]
        shape = filled(scatters[-1].inputs[0], edit)[1] if asked else None
        edit.replace(node, "RoiExtractor", [*(pool.align.inputs[0] for pool in pools), pools[0].rois], attributes)
        for reader in asked if shape is not None else ():
            edit.bypass(reader, shape)

    def _attributes(self, pools: Sequence[LevelPool], edit: Editor) -> dict[str, Any]:
        """Return the attributes of the operator that pools as all `pools` do. Raises Refuse where none does."""
        first = pools[0]
        if edit.opset < _OPSET:
            raise Refuse(f"RoiExtractor is known from operator set {_OPSET} on, and the model has {edit.opset}")
        if any(pool.rois is not first.rois or pool.level is not first.level for pool in pools):
            raise Refuse("its levels don't pool the same regions")
        numbers = [pool.number for pool in pools]
        if numbers != list(range(first.number, first.number + len(pools))):
            raise Refuse(f"its levels are numbered {', '.join(map(str, numbers))}, not one after the other")
        height, width, samples, mode = _common(pools)
        if mode != "avg" or height != width:
            raise Refuse(f"it pools by {mode} in {height} x {width} bins; RoiExtractor knows avg and squares only")
        return {
            "finest_scale": require_doubling_levels(first.rois, first.level, first.number, len(pools), edit),
            "roi_scale_factor": 0.0,
            "spatial_scale": [float(attribute(pool.align, "spatial_scale", 1.0)) for pool in pools],
            "pooled_height": height,
            "pooled_width": width,
            "sample_num": samples,
            "pool_mode": "avg",
            "aligned": int(first.aligned if self.aligned is None else self.aligned),
        }


def _common(pools: Sequence[LevelPool]) -> tuple[int, int, int, str]:
    """Return the height and width, the samples and the mode that all `pools` have."""
    ways = {
        (
            int(attribute(pool.align, "output_height", 1)),
            int(attribute(pool.align, "output_width", 1)),
            int(attribute(pool.align, "sampling_ratio", 0)),
            str(attribute(pool.align, "mode", "avg")),
            pool.aligned,
        )
        for pool in pools
    }
    if len(ways) > 1:
        raise Refuse("its levels don't pool in the same way: bins, samples, mode or half a cell differ")
    return ways.pop()[:4]
