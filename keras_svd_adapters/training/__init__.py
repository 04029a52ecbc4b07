"""Code that acts during `fit`."""
