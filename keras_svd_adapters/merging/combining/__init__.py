"""One adapter that does what several do together."""
