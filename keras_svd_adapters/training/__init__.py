"""What acts during `fit`."""
