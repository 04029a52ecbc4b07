"""One kernel: its matrix, its storage, its placement and its factors."""
