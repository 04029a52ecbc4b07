"""Sums with a structured update: products, Kronecker products, tensor trains, Fourier terms."""
