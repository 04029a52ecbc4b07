"""The random state of Python, NumPy and PyTorch, and its restoration."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np


class RandomState:
    """The random state at the moment of its creation.

    PyTorch counts if it is imported: its global generator draws the masks of unseeded dropout and
    the order of a `DataLoader`.
    """

    def __init__(self) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state()
        self._torch: Any = sys.modules.get("torch")
        if self._torch is not None:
            self._cpu = self._torch.get_rng_state()
            is_used = self._torch.cuda.is_available() and self._torch.cuda.is_initialized()
            self._cuda = self._torch.cuda.get_rng_state_all() if is_used else []

    def restore(self) -> None:
        """Restore this state; do so as often as needed."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        if self._torch is not None:
            self._torch.set_rng_state(self._cpu)
            if self._cuda:
                self._torch.cuda.set_rng_state_all(self._cuda)
