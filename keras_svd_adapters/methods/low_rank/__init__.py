"""Methods that add a product of two thin matrices."""
