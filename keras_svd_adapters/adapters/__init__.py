"""One adapted layer: its adapter, how it is attached, and its kind."""
