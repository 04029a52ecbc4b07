"""Methods that train selected entries or rows."""
