"""One adapted model: its kernels, its state and the verbs that change it."""
