"""Singular value decompositions of kernels: computed once, cached, shared by processes."""
