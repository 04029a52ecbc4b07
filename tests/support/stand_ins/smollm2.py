"""A tiny Gemma 3 of bytes, instead of SmolLM2-135M: its prompts have more tokens."""

from stand_ins.gemma import gemma3 as smollm2  # noqa: F401

TOKENS, STEPS = 76, 4
