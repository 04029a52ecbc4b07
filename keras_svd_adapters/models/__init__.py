"""One adapted model: its kernels, its state and the functions that change it."""
