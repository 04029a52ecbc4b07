"""Continual learning: one task after another, with adapters that remember the earlier ones."""
