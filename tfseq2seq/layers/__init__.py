"""Building blocks: each layer is one formula of a paper, with no knowledge of tasks or search."""
