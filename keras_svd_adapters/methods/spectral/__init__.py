"""Methods in the basis of singular vectors."""
