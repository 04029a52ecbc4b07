"""The small matrix between the factors of SVFT: which entries train, and products with it."""
