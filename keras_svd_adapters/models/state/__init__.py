"""State of a model with adapters: trained weights, saving and compiled functions."""
