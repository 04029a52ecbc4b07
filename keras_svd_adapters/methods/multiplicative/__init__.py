"""Methods that multiply a kernel by an orthogonal matrix."""
