"""Processes, host values, files, tables, plots and warnings. Nothing here depends on adapters."""
