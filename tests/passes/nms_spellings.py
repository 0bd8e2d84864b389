"""NMS as exporters write it, with all that chooses around it: as an RPN has it, and behind the heads."""

from __future__ import annotations

from collections.abc import Callable

N, C, BEST = 14, 3, 10  # rows, classes and detections at most of the heads
M, PROPOSALS = 60, 20  # candidates and proposals of the RPN, on three levels

CONSTANTS = f"""
    int64[1] z = {{0}}, int64[1] o = {{1}}, int64[1] two = {{2}}, int64[1] four = {{4}},
    int64[1] end = {{9223372036854775807}},
    int64 zero = {{0}}, int64 i1 = {{1}}, int64 i2 = {{2}}, int64 i3 = {{3}}, float f0 = {{0}}, float f1 = {{1}},
    int64[1] flat = {{-1}}, int64[2] column = {{-1, 1}}, int64[2] row = {{1, -1}}, int64[2] fours = {{-1, 4}},
    int64[3] by_class = {{1, {C}, {N}}}, int64[3] one_image = {{1, -1, 4}}, int64[3] one_class = {{1, 1, -1}},
    int64[1] many = {{9223372036854775807}}, int64[1] best = {{{BEST}}}, int64[1] proposals = {{{PROPOSALS}}},
    float[1] iou = {{0.5}}, float[1] iou_rpn = {{0.7}}, float least = {{0.05}}, float[1] least1 = {{0.05}},
    float[1] none = {{0}}, float side = {{0.01}},
    int64[{M}] level = {{{", ".join(str(k * 3 // M) for k in range(M))}}},
    int64[1, {C + 1}] numbers = {{{", ".join(map(str, range(C + 1)))}}}, int64[2] whole = {{{N}, {C + 1}}},
    int64[{N * C}] classes = {{{", ".join(str(k % C) for k in range(N * C))}}},
    float[{N * C}, 1] far = {{{", ".join(str(k % C * 321 + 1) for k in range(N * C))}}},
    float[{N * C}, 1] empty_mask = {{{", ".join(["0"] * (N * C))}}},
    float[{M}, 1] empty_rpn = {{{", ".join(["0"] * M)}}}, float stride = {{321}}"""


def apart(boxes: str, scores: str, numbers: str, iou: str, at: str) -> str:
    """batched_nms of torchvision: boxes are moved by the number of their class or level."""
    return f"""
        {at}largest = ReduceMax <keepdims = 0> ({boxes})  {at}number = Cast <to = 1> ({numbers})
        {at}step = Add ({at}largest, f1)  {at}offset = Mul ({at}number, {at}step)
        {at}by = Reshape ({at}offset, column)  {at}moved = Add ({boxes}, {at}by)
        {at}b = Reshape ({at}moved, one_image)  {at}s = Reshape ({scores}, one_class)
        {at}nms = NonMaxSuppression ({at}b, {at}s, many, {iou})
        {at}index = Gather <axis = 1> ({at}nms, two)  {at}keep = Reshape ({at}index, flat)"""


def guarded(boxes: str, inner: str, kept: str, at: str) -> str:
    """The same in an If that spares it an empty list."""
    return f"""
        {at}shape = Shape ({boxes})  {at}count = ReduceProd <keepdims = 0> ({at}shape)
        {at}empty = Equal ({at}count, zero)
        {kept} = If ({at}empty) <
            then_branch = nothing () => (int64[{at}n] {at}no) {{ {at}no = Constant <value = int64[0] {{}}> () }},
            else_branch = something () => (int64[{at}n2] {at}keep) {{ {inner} }}>"""


def cut(boxes: str, scores: str, numbers: str, iou: str, most: str, at: str = "a_", guard: bool = True) -> str:
    inner = apart(boxes, scores, numbers, iou, at)
    kept = guarded(boxes, inner, f"{at}kept", at) if guard else f"{inner}  {at}kept = Identity ({at}keep)"
    return f"{kept}  {at}first = Slice ({at}kept, z, {most}, z)"


def picked(mask: str, at: str) -> str:
    return f"{at}nz = NonZero ({mask})  {at}at = Transpose <perm = [1, 0]> ({at}nz)"


def large(boxes: str, at: str) -> str:
    return f"""
        {at}x1 = Gather <axis = 1> ({boxes}, zero)  {at}y1 = Gather <axis = 1> ({boxes}, i1)
        {at}x2 = Gather <axis = 1> ({boxes}, i2)  {at}y2 = Gather <axis = 1> ({boxes}, i3)
        {at}w = Sub ({at}x2, {at}x1)  {at}h = Sub ({at}y2, {at}y1)
        {at}wide = Greater ({at}w, side)  {at}high = Greater ({at}h, side)  {at}large = And ({at}wide, {at}high)"""


def detectron2(guard: bool = True) -> str:
    return f"""
        above = Greater (scores, least)  {picked("above", "")}
        fb = GatherND (boxes, at)  fs = GatherND (scores, at)  fl = Gather <axis = 1> (at, i1)
        {cut("fb", "fs", "fl", "iou", "best", guard=guard)}
        out_boxes = Gather <axis = 0> (fb, a_first)  out_scores = Gather <axis = 0> (fs, a_first)
        pairs = Gather <axis = 0> (at, a_first)  out_labels = Gather <axis = 1> (pairs, i1)"""


def torchvision(guard: bool = True) -> str:
    """The classes begin with 1: the background, 0, was sliced off."""
    return f"""
        every = Expand (numbers, whole)  labelled = Slice (every, o, end, o)
        rb = Reshape (boxes, fours)  rs = Reshape (scores, flat)  rl = Reshape (labelled, flat)
        above = Greater (rs, least)  {picked("above", "")}  at1 = Reshape (at, flat)
        b1 = Gather <axis = 0> (rb, at1)  s1 = Gather <axis = 0> (rs, at1)  l1 = Gather <axis = 0> (rl, at1)
        {large("b1", "c_")}  {picked("c_large", "c_")}  at2 = Reshape (c_at, flat)
        b2 = Gather <axis = 0> (b1, at2)  s2 = Gather <axis = 0> (s1, at2)  l2 = Gather <axis = 0> (l1, at2)
        {cut("b2", "s2", "l2", "iou", "best", guard=guard)}
        out_boxes = Gather <axis = 0> (b2, a_first)  out_scores = Gather <axis = 0> (s2, a_first)
        out_labels = Gather <axis = 0> (l2, a_first)"""


def mmdet(guard: bool = True) -> str:
    return f"""
        rb = Reshape (boxes, one_image)  moved = Add (rb, far)  rs = Reshape (scores, one_class)
        nms = NonMaxSuppression (moved, rs, best, iou, least1)
        {masked("moved", "rs", "empty_mask", "best")}
        long = Reshape (classes, column)  gl = Gather <axis = 0> (long, top)  out_labels = Reshape (gl, flat)
        dets = Concat <axis = 2> (gb, gs)
        lb = Slice (dets, z, four, two)  n = Cast <to = 1> (gl)  by = Mul (n, stride)  more = Add (by, f1)
        back = Sub (lb, more)  out_boxes = Reshape (back, fours)  out_scores = Reshape (gs, flat)"""


def masked(boxes: str, scores: str, empty: str, most: str) -> str:
    """A mask of what is chosen, times boxes and scores, and the TopK of these."""
    return f"""
        ni = Gather <axis = 1> (nms, zero)  nc = Gather <axis = 1> (nms, i1)  nb = Gather <axis = 1> (nms, i2)
        sum = Add (ni, nc)  times = Mul (sum, zero)  index = Add (times, nb)
        ones = Gather <axis = 0> ({empty}, index)  set = Add (ones, f1)
        down = Reshape (index, column)  zeros = Mul (down, zero)  places = Concat <axis = 1> (down, zeros)
        values = Reshape (set, flat)  mask = ScatterND ({empty}, places, values)
        cs = Reshape ({scores}, column)  cb = Reshape ({boxes}, fours)
        ms = Mul (cs, mask)  mb = Mul (cb, mask)  line = Reshape (ms, row)
        tv, top = TopK <axis = -1> (line, {most})  gs = Gather <axis = 0> (ms, top)  gb = Gather <axis = 0> (mb, top)"""


def detectron2_rpn(guard: bool = True) -> str:
    return f"""
        {large("boxes", "c_")}  {picked("c_large", "")}
        fb = GatherND (boxes, at)  fs = GatherND (scores, at)  fl = GatherND (level, at)
        {cut("fb", "fs", "fl", "iou_rpn", "proposals", guard=guard)}  out_boxes = Gather <axis = 0> (fb, a_first)"""


def torchvision_rpn(guard: bool = True) -> str:
    """The levels come out of a TopK of the image, and a threshold of 0 that each probability passes."""
    return f"""
        {large("boxes", "c_")}  {picked("c_large", "c_")}  at1 = Reshape (c_at, flat)
        tv, top = TopK <axis = 0> (objectness, k)  chosen = Gather <axis = 0> (level, top)
        b1 = Gather <axis = 0> (boxes, at1)  s1 = Gather <axis = 0> (scores, at1)  l1 = Gather <axis = 0> (chosen, at1)
        low = Less (s1, f0)  above = Not (low)  {picked("above", "")}  at2 = Reshape (at, flat)
        b2 = Gather <axis = 0> (b1, at2)  s2 = Gather <axis = 0> (s1, at2)  l2 = Gather <axis = 0> (l1, at2)
        {cut("b2", "s2", "l2", "iou_rpn", "proposals", guard=guard)}  out_boxes = Gather <axis = 0> (b2, a_first)"""


def mmdet_rpn(guard: bool = True) -> str:
    return f"""
        rb = Reshape (boxes, one_image)  rs = Reshape (scores, one_class)
        nms = NonMaxSuppression (rb, rs, proposals, iou_rpn, none)
        {masked("rb", "rs", "empty_rpn", "proposals")}
        dets = Concat <axis = 2> (gb, gs)
        lb = Slice (dets, z, four, two)  out_boxes = Reshape (lb, fours)"""


Spelling = Callable[[bool], str]
HEADS: list[Spelling] = [detectron2, torchvision, mmdet]
RPNS: list[Spelling] = [detectron2_rpn, torchvision_rpn, mmdet_rpn]


def heads(body: str, opset: int = 17) -> str:
    """Return the network of a spelling of the heads, as text of ONNX."""
    return f"""<ir_version: 8, opset_import: ["": {opset}]>
        g (float[{N}, {C}, 4] boxes, float[{N}, {C}] scores)
          => (float[n, 4] out_boxes, float[n] out_scores, int64[n] out_labels)
        <{CONSTANTS}> {{ {body} }}"""


def rpn(body: str, opset: int = 17) -> str:
    """The same of an RPN."""
    more = f"float[{M + 5}] objectness" if "objectness" in body else ""
    return f"""<ir_version: 8, opset_import: ["": {opset}]>
        g (float[{M}, 4] boxes, float[{M}] scores{", " * bool(more)}{more}) => (float[n, 4] out_boxes)
        <{CONSTANTS}, int64[1] k = {{{M}}}> {{ {body} }}"""


def shared() -> str:
    """One NMS of all classes over boxes [N, 4] that they share; what it chooses is sorted behind it."""
    text = heads("""
        rb = Reshape (boxes, one_image)  turned = Transpose <perm = [1, 0]> (scores)  rs = Reshape (turned, by_class)
        nms = NonMaxSuppression (rb, rs, two, iou, least1)
        fl = Gather <axis = 1> (nms, i1)  fb = Gather <axis = 1> (nms, i2)
        number = Reshape (fl, column)  place = Reshape (fb, column)  pairs = Concat <axis = 1> (number, place)
        fs = GatherND (turned, pairs)  all = Shape (fs)  order, top = TopK (fs, all)
        first = Slice (top, z, best, z)  at = Gather <axis = 0> (fb, first)
        out_boxes = Gather <axis = 0> (boxes, at)  out_scores = Gather <axis = 0> (fs, first)
        out_labels = Gather <axis = 0> (fl, first)""")
    return text.replace(f"[{N}, {C}, 4] boxes", f"[{N}, 4] boxes")
