"""From kapture datasets to a visual map and its memory-mapped index."""
