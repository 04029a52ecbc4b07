"""Methods that train rows before each text."""
