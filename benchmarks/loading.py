"""The most memory until Gemma 3 270M is adapted: by KerasHub and `enable`, or by `from_preset`.

KERAS_BACKEND=torch python benchmarks/loading.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import keras_hub
from peak_memory import PeakMemory

import keras_svd_adapters as ksa

METHOD = ksa.SVFT(pattern="banded", d=2)
WAYS = ("enable", "from_preset")


def peak(how: str, preset: str) -> int:
    """Bytes above those of a process that has computed something."""
    keras.ops.matmul(keras.ops.ones((10, 10)), keras.ops.ones((10, 10)))
    with PeakMemory() as memory:
        if how == "from_preset":
            ksa.from_preset(preset, METHOD, verbose=0, cache=False)
        else:
            backbone = keras_hub.models.Backbone.from_preset(preset)
            ksa.enable(backbone, METHOD, verbose=0, cache=False)
    return memory.bytes


def main() -> None:
    sys.path.append(str(Path(__file__).parents[1] / "examples"))
    import language_models

    with tempfile.TemporaryDirectory() as preset:
        language_models.load("gemma3").backbone.save_to_preset(preset)
        for how in WAYS:
            command = [sys.executable, __file__, how, preset]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            print(f"{keras.backend.backend()} {how}: {int(found.split()[-1]) / 1e6:,.0f} MB")


if __name__ == "__main__":
    print(peak(*sys.argv[1:])) if len(sys.argv) > 1 else main()
