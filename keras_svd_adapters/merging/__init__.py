"""Arithmetic on adapters: merge, convert, extract and compare them."""
