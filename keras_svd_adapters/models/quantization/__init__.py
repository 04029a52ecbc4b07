"""How a model is quantized: storage, weights of the errors, factors beside the kernels."""
