"""Optimizers of whole kernels whose state holds projected gradients."""
