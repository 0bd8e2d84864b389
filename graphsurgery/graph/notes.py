"""Notes that a pass leaves in the model's metadata_props for the manifest (each is JSON)."""

NORMALISATION_NOTE = "graphsurgery.normalisation"  # {"mean": [3 floats], "std": [3 floats]}: now the runtime's job
MASKS_NOTE = "graphsurgery.masks"  # name of the output with mask probabilities, which the runtime pastes now
BATCH_NOTE = "graphsurgery.batch"  # {"size": 1000, "mode": "pad" | "loop"}: how the runtime fills a frozen batch
NOTES = "graphsurgery."  # what the keys of all such notes begin with
