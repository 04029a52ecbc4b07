"""Adapters to HF PEFT directories and back."""
