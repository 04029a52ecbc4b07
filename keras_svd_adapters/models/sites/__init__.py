"""The kernels of a model: found, selected and named."""
