"""The ten lines of the README, with a stand-in for the preset. `tests/support` is in the path."""

import tempfile
from pathlib import Path

import kagglehub
import tiny_hub

with tempfile.TemporaryDirectory() as folder:
    kagglehub.model_download = tiny_hub.stand_in(Path(folder))
    exec(compile(tiny_hub.TEN_LINES, "README.md", "exec"), {})
