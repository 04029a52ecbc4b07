"""Convert adapters to HF PEFT directories and back."""
