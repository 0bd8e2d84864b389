"""What comes out: parts of a graph, the manifest that says how they belong together, the folder they lie in."""
