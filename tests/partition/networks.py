"""Small networks of the structure of known detectors, with random weights: as text, and the shapes of their weights."""

# Two levels of 16 and 4 cells; boxes of 4 sides, each the mean of a distribution over 4 bins, and 3 classes.
YOLO_DFL = """
    yolo (float[1, 3, 16, 16] image) => (float[1, 7, 20] out)
    <int64[3] rows3 = {1, 19, 16}, int64[3] rows4 = {1, 19, 4}, int64[2] sizes = {16, 3}, int64[4] bins = {1, 4, 4, 20},
     int64[3] sides = {1, 4, 20}, int64[2] halves = {2, 2}, float[1, 4, 1, 1] place = {0, 1, 2, 3},
     float[1] anchor = {2}, float[1] stride = {80}> {
        s = Conv <strides = [4, 4]> (image, stem)
        sig = Sigmoid (s)
        p3 = Mul (s, sig)
        p4 = Conv <strides = [2, 2]> (p3, down)
        box3 = Conv (p3, wb)
        cls3 = Conv (p3, wc)
        cat_3 = Concat <axis = 1> (box3, cls3)
        box4 = Conv (p4, wb)
        cls4 = Conv (p4, wc)
        cat_4 = Concat <axis = 1> (box4, cls4)
        r3 = Reshape (cat_3, rows3)
        r4 = Reshape (cat_4, rows4)
        cat_all = Concat <axis = 2> (r3, r4)
        box, cls = Split <axis = 1> (cat_all, sizes)
        b = Reshape (box, bins)
        t = Transpose <perm = [0, 2, 1, 3]> (b)
        p = Softmax <axis = 1> (t)
        mean = Conv (p, place)
        d = Reshape (mean, sides)
        lt, rb = Split <axis = 1> (d, halves)
        x0 = Sub (anchor, lt)
        x1 = Add (anchor, rb)
        cat_box = Concat <axis = 1> (x0, x1)
        boxes = Mul (cat_box, stride)
        scores = Sigmoid (cls)
        out = Concat <axis = 1> (boxes, scores)
    }"""
YOLO_WEIGHTS = {"stem": [4, 3, 4, 4], "down": [4, 4, 2, 2], "wb": [16, 4, 1, 1], "wc": [3, 4, 1, 1]}

# The same with sides in place of distributions, and boxes made of centres by a matrix, as end-to-end exports do.
YOLO = """
    yolo (float[1, 3, 16, 16] image) => (float[1, 7, 16] out)
    <int64[3] rows = {1, 7, 16}, int64[2] sizes = {4, 3}, float[1] size = {64},
     float[4, 4] corners = {1, 0, 1, 0, 0, 1, 0, 1, -0.5, 0, 0.5, 0, 0, -0.5, 0, 0.5}> {
        f = Conv <strides = [4, 4]> (image, stem)
        a = Relu (f)
        raw = Conv (a, head)
        r = Reshape (raw, rows)
        box, cls = Split <axis = 1> (r, sizes)
        share = Sigmoid (box)
        pixels = Mul (share, size)
        by_cell = Transpose <perm = [0, 2, 1]> (pixels)
        xyxy = MatMul (by_cell, corners)
        boxes = Transpose <perm = [0, 2, 1]> (xyxy)
        scores = Sigmoid (cls)
        out = Concat <axis = 1> (boxes, scores)
    }"""
YOLO_PLAIN_WEIGHTS = {"stem": [4, 3, 4, 4], "head": [7, 4, 1, 1]}

# A backbone, one encoder layer over 16 tokens, one decoder layer with 3 queries that are constants.
DETR = """
    detr (float[1, 3, 16, 16] image) => (float[1, 3, 5] logits, float[1, 3, 4] pred_boxes)
    <int64[3] rows = {1, 4, 16}, float[1] scale = {0.5}> {
        c = Conv <strides = [4, 4]> (image, stem)
        f = Relu (c)
        r = Reshape (f, rows)
        tokens = Transpose <perm = [0, 2, 1]> (r)
        q = MatMul (tokens, wq)
        k = MatMul (tokens, wk)
        kt = Transpose <perm = [0, 2, 1]> (k)
        qk = MatMul (q, kt)
        weighed = Mul (qk, scale)
        a = Softmax <axis = -1> (weighed)
        v = MatMul (tokens, wv)
        o = MatMul (a, v)
        sum = Add (tokens, o)
        memory = LayerNormalization <axis = -1> (sum, gain)
        placed = Add (memory, position)
        dk = MatMul (placed, dwk)
        dkt = Transpose <perm = [0, 2, 1]> (dk)
        dqk = MatMul (queries, dkt)
        da = Softmax <axis = -1> (dqk)
        dv = MatMul (memory, dwv)
        found = MatMul (da, dv)
        hidden = LayerNormalization <axis = -1> (found, gain)
        l = MatMul (hidden, wl)
        logits = Add (l, bl)
        m = MatMul (hidden, wm)
        mb = Add (m, bm)
        pred_boxes = Sigmoid (mb)
    }"""
DETR_WEIGHTS = {
    "stem": [4, 3, 4, 4],
    **{name: [4, 4] for name in ("wq", "wk", "wv", "dwk", "dwv", "wm")},
    **{"gain": [4], "position": [1, 16, 4], "queries": [1, 3, 4], "wl": [4, 5], "bl": [5], "bm": [4]},
}

# What the encoder finds best is gathered for the decoder, where a table is read by constant places once more.
RT_DETR = """
    rt_detr (float[1, 3, 16, 16] image) => (float[1, 3, 5] logits, float[1, 3, 4] pred_boxes)
    <int64[3] rows = {1, 4, 16}, int64[1] many = {3}, int64[1] last = {-1}, int64[3] wide = {1, 1, 4},
     int64[3] order = {2, 0, 1}> {
        c = Conv <strides = [4, 4]> (image, stem)
        f = Relu (c)
        r = Reshape (f, rows)
        t = Transpose <perm = [0, 2, 1]> (r)
        memory = MatMul (t, wt)
        seen = MatMul (memory, ws)
        best = ReduceMax <axes = [2], keepdims = 0> (seen)
        scores, places = TopK (best, many)
        column = Unsqueeze (places, last)
        index = Tile (column, wide)
        queries = GatherElements <axis = 1> (memory, index)
        h = MatMul (queries, wh)
        g = Gather <axis = 1> (h, order)
        n = Relu (g)
        logits = MatMul (n, wl)
        m = MatMul (n, wm)
        pred_boxes = Sigmoid (m)
    }"""
RT_DETR_WEIGHTS = {"stem": [4, 3, 4, 4], "wt": [4, 4], "ws": [4, 5], "wh": [4, 4], "wl": [4, 5], "wm": [4, 4]}
