"""Reports that read a model and change nothing."""
