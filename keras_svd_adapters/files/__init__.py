"""Adapter files, HF PEFT directories and KerasHub presets."""
