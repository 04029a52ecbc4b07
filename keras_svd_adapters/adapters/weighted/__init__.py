"""Several adapters of a layer at once, each with a weight."""
