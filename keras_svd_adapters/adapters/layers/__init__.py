"""The kinds of layers that carry adapters."""
