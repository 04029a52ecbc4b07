"""Frozen variables in the memory of the host, while a GPU or TPU computes without them.

On JAX, the value is an array in pinned memory, which compiled steps pass on without a copy. An
operation reads it by `on_device`. Variables stay where they are on TensorFlow, over the devices of
a distribution, and with an older JAX, whose steps would copy them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.runtime.keras_private.variables import (
    layout_of,
    read_moved,
    stored_value,
)

PINNED, MARK = "pinned_host", "may_be_in_host_memory"


def _can_move(variable: keras.Variable) -> bool:
    """Return whether the value of a variable can leave the memory of its device."""
    value = stored_value(variable)
    if value is None:
        return False
    if keras.backend.backend() == "torch":
        return _torch_has_device()
    if keras.backend.backend() != "jax" or layout_of(variable) is not None:
        return False
    import jax

    is_array = isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer)
    return is_array and _has_own_memory(value) and _steps_keep_memory()


def is_on_host(value: Any) -> bool:
    """Return whether a variable or tensor is in host memory, while a GPU or TPU computes."""
    if isinstance(value, keras.Variable):
        value = stored_value(value)
    if keras.backend.backend() == "torch":
        place = getattr(getattr(value, "device", None), "type", None)
        return place == "cpu" and _torch_has_device()
    if keras.backend.backend() != "jax":
        return False
    import jax

    if not hasattr(jax, "memory") or not isinstance(value, jax.Array):
        return False
    return getattr(jax.typeof(value), "memory_space", None) == jax.memory.Space.Host


def bytes_on_host(variable: keras.Variable) -> int:
    """Return the bytes of a variable in host memory, 0 for one in the memory of its device."""
    return int(stored_value(variable).nbytes) if is_on_host(variable) else 0


def move_to_host(variable: keras.Variable) -> None:
    """Move the value of a frozen variable into host memory, where that is possible."""
    if is_on_host(variable) or not _can_move(variable):
        return
    value = stored_value(variable)
    vars(variable)[MARK] = True
    if keras.backend.backend() == "torch":
        value.data = value.data.cpu()
        return
    import jax

    variable.assign(jax.device_put(value, value.sharding.with_memory_kind(PINNED)))


def move_to_device(variable: keras.Variable) -> None:
    """Undo `move_to_host`."""
    vars(variable).pop(MARK, None)
    if not is_on_host(variable):
        return
    value = stored_value(variable)
    if keras.backend.backend() == "torch":
        value.data = on_device(value.data)
    else:
        variable.assign(on_device(value))


def on_device(value: Any) -> Any:
    """Return a variable or tensor as operations read it: a copy on the device if it is elsewhere.

    Within a compiled step, the step makes the copy.
    """
    if isinstance(value, keras.Variable):
        return read_moved(value, on_device) if vars(value).get(MARK) else value
    if not is_on_host(value):
        return value
    if keras.backend.backend() == "torch":
        return ops.convert_to_tensor(value)
    import jax

    return jax.device_put(value, jax.memory.Space.Device)


def _has_own_memory(value: Any) -> bool:
    """Return whether the device of a JAX array is not the host."""
    return all(device.platform != "cpu" for device in value.devices())


@cache
def _steps_keep_memory() -> bool:
    """Return whether a compiled step of this JAX passes an array on in the memory of the host.

    JAX 0.8 copies the array to the device, JAX 0.10 does not.
    """
    import jax

    one = jax.numpy.zeros(1)
    kinds = {memory.kind for device in one.devices() for memory in device.addressable_memories()}
    if not hasattr(jax, "memory") or PINNED not in kinds:
        return False
    pinned = jax.device_put(one, one.sharding.with_memory_kind(PINNED))
    passed, _ = jax.jit(lambda x, y: (x, y + 1))(pinned, one)
    return bool(passed.sharding.memory_kind == PINNED)


def _torch_has_device() -> bool:
    """Return whether PyTorch computes on a device with a memory of its own."""
    return ops.zeros(()).device.type not in ("cpu", "meta")
