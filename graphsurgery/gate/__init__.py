"""The numeric check after every pass: is what comes out equal to what the original model gives?

tolerances     how far a tensor may be off
metrics        how far it is off
matched_rows   detections and proposals are sets: their rows are paired first
equivalence    two sets of tensors, compared
gate           a graph, a part or the chain of parts, run on the captured samples and compared
"""
