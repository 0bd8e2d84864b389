"""The numeric check after every pass: is what comes out equal to what the original model gives?

tolerances         how far a tensor may be off
metrics            how far it is off
matched_rows       detections and proposals are sets: their rows are paired first
row_members        which other tensors share their rows
described_outputs  what the recipe's `detections` say: roles of columns, and rows that are sets
columns            a tensor that holds several things is compared by its columns
ties               a row that a tie of scores has exchanged is not lost
pasted_masks       a mask moves with its box over the edge of a pixel
equivalence        two sets of tensors, compared
verdicts           what that gave, and how it is said
gate               a graph, a part or the chain of parts, run on the captured samples and compared
"""
