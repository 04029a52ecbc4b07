"""Reinforcement: training on rewards for generated text."""
