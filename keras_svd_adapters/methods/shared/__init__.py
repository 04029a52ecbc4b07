"""Methods whose frozen arrays all kernels of a model share."""
