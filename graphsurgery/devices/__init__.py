"""ONNX Runtime: sessions on the CPU and on accelerators, and where the nodes of a model really run.

provider              what a provider and its options are
providers             the accelerators that are known and their options
simulators            what vendors have in the place of their NPUs
choices               what a user, a recipe or a manifest asks for, and which files that may name
session               makes sessions; the only place, with accelerated_session
accelerated_session   on an accelerator: refuses to fall back, keeps what was compiled
attach                adds a provider to the options of a session
operator_sets         those that ONNX Runtime knows
placement             which provider runs each node, and why not
vitisai               what is peculiar to AMD's provider
"""
