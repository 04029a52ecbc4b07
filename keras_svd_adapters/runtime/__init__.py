"""Processes, values on the host, files, tables, plots and warnings: nothing here knows adapters."""
