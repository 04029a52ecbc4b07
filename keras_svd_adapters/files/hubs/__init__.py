"""Adapter files on the Hugging Face hub and on Kaggle, by their addresses."""
