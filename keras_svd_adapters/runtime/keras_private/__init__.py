"""All uses of Keras's private API, and nothing else."""
