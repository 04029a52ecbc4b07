"""A pass of data through a model, and what it finds for each kernel."""
