"""KerasHub presets that keep adapters."""
