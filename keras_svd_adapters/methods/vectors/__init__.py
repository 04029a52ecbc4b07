"""Trained vectors that scale the inputs or the outputs of a kernel."""
