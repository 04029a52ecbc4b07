"""Prompts: rows of adapters that a model reads before each text."""
