"""Methods for attention layers: more keys and values for their queries."""
