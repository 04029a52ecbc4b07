"""To HF PEFT and back."""
