"""The public pool, and what it takes adapters from."""
