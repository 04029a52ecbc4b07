"""The choice of adapters: for a prompt, a sample or a token."""
