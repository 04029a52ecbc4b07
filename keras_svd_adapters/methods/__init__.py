"""Methods: one file per method, with its algebra."""
