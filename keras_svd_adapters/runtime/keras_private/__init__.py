"""Every use of private Keras, and nothing else."""
