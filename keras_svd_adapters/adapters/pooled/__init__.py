"""Adapters that take turns in the slots of a pool."""
