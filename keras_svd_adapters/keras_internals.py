"""Every use of private Keras, and why. Checked on Keras 3.15; `tests/test_keras_internals.py`
fails where Keras moves one of them.

- The traversal of `saving_lib`: its paths are the only names of layers that survive a rebuild
  (`layer.path` changes or repeats in a dozen KerasHub families), and weight files use them.
- `get_attr_skipset` and where it keeps its result: Keras makes that list again for every layer.
- `_tracker`: a built layer is locked, and an adapter is a new child of a built layer.
- Changing `__class__` to a subclass of the same name: paths, checkpoints, layout maps and
  `isinstance` stay as they were, which replacing the layer in its parent would break.
- `REGISTERED_OBJS_TO_NAMES`, `GLOBAL_CUSTOM_NAMES`: the name that a configuration gives to such a
  subclass; the public decorator would also redirect the name of the class itself.
- `_trainable`: setting `trainable` on a parent would change all that lies below it.
- `_exclude_from_weight_decay`, `_apply_weight_decay`: the public setter forgets what was excluded
  before, and Keras on torch fails where nothing is left to decay.
- `_compile_config`: the only trace of a call of `compile`, after which nothing traced before holds.
- `_learning_rate`: the schedule behind `learning_rate`, which gives its first value alone.
- `current_call_ctx`: convolutions take no `training`, and the dropout of an adapter must know.
- `in_symbolic_scope`: Keras calls layers before their weights are loaded, for their shapes.
- `uninitialized_variables`: a model built for its shapes must not be filled with values later.
- `_value`, `_initialize`, `H5IOStore`: such a model gets its first values from a file.
- `_flatten_layers`, `_keras_history`: which models hold a layer, which layer makes an output.
- `_kernel`, `_is_quantized`, `_adjust_scale_for_dequant`, `_int4_rows`: how a layer is quantized,
  and the way back, which Keras lacks.
- `_layout`, `_value`: `add_weight` takes no layout, and a `LayoutMap` would have to know our names.
- `_track_variables` (torch): new variables join `model.parameters()` only when asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import keras
from keras import ops
from keras.src.api_export import REGISTERED_OBJS_TO_NAMES
from keras.src.backend import compute_output_spec
from keras.src.backend.common import global_state
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.saving.object_registration import GLOBAL_CUSTOM_NAMES
from keras.src.saving.saving_lib import (
    H5IOStore,
    ShardedH5IOStore,
    _get_unique_name,
    get_attr_skipset,
)
from keras.src.utils.naming import to_snake_case

PACKAGE = __name__.partition(".")[0]
HOLDERS = (keras.layers.Layer, list, tuple, dict)
WEIGHTS = ("kernel", "embeddings")
METHODS_OF_CLASSES = (FunctionType, classmethod, staticmethod)
_known_classes: WeakKeyDictionary[type, tuple[int, list[str]]] = WeakKeyDictionary()


def walk(model: keras.layers.Layer) -> Iterator[tuple[str, tuple[keras.layers.Layer, ...]]]:
    """Every layer of a model once, with its traversal path and the layers from the root to it."""
    seen: set[int] = set()

    def visit(layer: Any, path: str, chain: tuple[Any, ...]) -> Iterator[Any]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        chain = (*chain, layer)
        yield path, chain
        for attribute, child in children(layer):
            yield from visit_child(child, f"{path}/{attribute}" if path else attribute, chain)

    def visit_child(child: Any, path: str, chain: tuple[Any, ...]) -> Iterator[Any]:
        if isinstance(child, keras.layers.Layer):
            yield from visit(child, path, chain)
        elif isinstance(child, (list, tuple, dict)):
            yield from visit_container(child, path, chain, set())

    def visit_container(
        items: Any, path: str, chain: tuple[Any, ...], within: set[int]
    ) -> Iterator[Any]:
        if id(items) in within:
            return
        within = within | {id(items)}
        used: dict[str, int] = {}
        for item in list(items.values()) if isinstance(items, dict) else items:
            if isinstance(item, (list, tuple, dict)):
                name = _get_unique_name("container", used)
                yield from visit_container(item, f"{path}/{name}", chain, within)
            elif hasattr(item, "save_own_variables"):
                name = _get_unique_name(to_snake_case(item.__class__.__name__), used)
                yield from visit_child(item, f"{path}/{name}", chain)

    yield from visit(model, "", ())


def children(layer: keras.layers.Layer) -> Iterator[tuple[str, Any]]:
    """The attributes that may hold layers, in the order of the traversal of `saving_lib`.

    The same as `_walk_saveable` without the attributes that hold none, which are nearly all: it
    lists and reads some 300 of each layer.
    """
    kind = layer._obj_type()
    if kind in ("Sequential", "Functional"):
        yield "layers", layer.layers
    skipped = _skipped(kind)
    held = vars(layer) | vars(layer).get("_modules", {})  # the latter by PyTorch
    found = {
        name: value
        for name, value in held.items()
        if isinstance(value, HOLDERS) and name not in skipped and not name.startswith("__")
    }
    for name in _read_by_class(type(layer), skipped):
        found.pop(name, None)
        try:
            value = getattr(layer, name)
        except Exception:
            continue
        if isinstance(value, HOLDERS):
            found[name] = value
    for name in sorted(found, key=lambda name: f"~{name}" if name.startswith("_") else name):
        yield name, found[name]


def _skipped(kind: str) -> set[str]:
    """The attributes that Keras's traversal skips.

    Keras makes the list again for every layer, for it keeps the list under one name and looks for
    it under another (3.15). Here it is made once, and where Keras looks for it.
    """
    read = f"saving_attr_skiplist_{kind}"
    if (skipped := global_state.get_global_attribute(read, None)) is None:
        skipped = get_attr_skipset(kind)
        global_state.set_global_attribute(read, skipped)
    return skipped


def _read_by_class(cls: type, skipped: set[str]) -> list[str]:
    """The properties and values of a class, which are read from an instance to be known.

    Those of this package hold no layer. Some of them, and Keras's own of weights, compute a kernel
    when they are read.
    """
    size = sum(len(vars(parent)) for parent in cls.__mro__)
    if (known := _known_classes.get(cls)) and known[0] == size:
        return known[1]
    owners = {name: parent for parent in reversed(cls.__mro__) for name in vars(parent)}
    names = [
        name
        for name, owner in owners.items()
        if name not in skipped
        and name not in WEIGHTS
        and not name.startswith("__")
        and not owner.__module__.startswith(f"{PACKAGE}.")
        and not isinstance(vars(owner)[name], METHODS_OF_CLASSES)
    ]
    _known_classes[cls] = size, names
    return names


def only_shapes_matter() -> bool:
    """Whether Keras is working out shapes, without values."""
    return bool(in_symbolic_scope())


def is_training() -> bool:
    """Whether a layer that takes no `training` argument is called to be trained."""
    context = global_state.get_global_attribute("current_call_ctx")
    return bool(context is not None and context.get_value("training"))


@contextmanager
def shapes_only() -> Iterator[list[keras.Variable]]:
    """Within, a model that is built has shapes and no values, now and later.

    The variables that were made are in the list that it yields, afterwards.
    """
    waiting = list(global_state.get_global_attribute("uninitialized_variables", None) or [])
    made: list[keras.Variable] = []
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield made
            made += global_state.get_global_attribute("uninitialized_variables", None) or []
    finally:
        global_state.set_global_attribute("uninitialized_variables", waiting)


def give_first_value(variable: keras.Variable, value: Any = None) -> None:
    """Gives a variable of `shapes_only` its first value, by default that of its initializer."""
    if variable._value is not None:
        return
    if value is None:
        variable._deferred_initialize()
        return
    if tuple(value.shape) != tuple(variable.shape):
        raise ValueError(
            f"The file has another shape for {variable.path} than {tuple(variable.shape)}: it is "
            f"of another model. Received: {tuple(value.shape)}"
        )
    if keras.backend.backend() == "jax" and keras.distribution.distribution() is not None:
        value = _spread(variable, value.astype(variable.dtype))
    else:
        value = variable._convert_to_tensor(value, dtype=variable.dtype)
    variable._initialize(value)
    variable._initializer = None


def _spread(variable: keras.Variable, value: Any) -> Any:
    """From the host to each device what it will hold, and nothing to the hosts of others."""
    import jax

    variable._initialize_layout()
    layout = getattr(variable._layout, "backend_layout", variable._layout)
    return jax.make_array_from_callback(value.shape, layout, lambda part: value[part])


def has_value(variable: keras.Variable) -> bool:
    """Whether a variable of `shapes_only` has its first value."""
    return variable._value is not None


@contextmanager
def weights_store(path: Path) -> Iterator[Any]:
    """What Keras reads a file of weights with, or the index of several, layer by layer."""
    store = (ShardedH5IOStore if path.suffix == ".json" else H5IOStore)(path, mode="r")
    try:
        yield store
    finally:
        store.close()


PLAIN = {
    keras.layers.Layer.load_own_variables,
    keras.layers.Dense.load_own_variables,
    keras.layers.EinsumDense.load_own_variables,
    keras.layers.Embedding.load_own_variables,
    keras.layers.Conv2D.load_own_variables,
}


def loads_plainly(layer: keras.layers.Layer) -> bool:
    """Whether a layer loads its weights one by one in their order, as those of Keras do."""
    own = type(layer).load_own_variables in PLAIN
    return own and getattr(layer, "quantization_mode", None) is None


def compiled_as(model: keras.Model) -> Any:
    """An object that each call of `model.compile` replaces."""
    return getattr(model, "_compile_config", None)


def forget_traces(model: keras.Model) -> None:
    """Makes JAX trace the steps of a model again (Keras 3.0 and later).

    Keras hands JAX the bound methods `train_step` and `test_step`. These are equal each time, and
    JAX remembers by them what it traced, whatever the layers within compute by now.
    """
    if keras.backend.backend() == "jax":
        import jax

        for step in (model.train_step, model.test_step):
            jax.jit(step).clear_cache()


def output_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that make a functional model's outputs; none for other models."""
    outputs = keras.tree.flatten(getattr(model, "outputs", None) or [])
    return [layer for output in outputs for layer in _makers(output)]


def _makers(output: Any) -> list[Any]:
    """The last layers with weights before an output, within nested models as well."""
    made_by, index = output._keras_history[:2]
    if isinstance(made_by, keras.Model) and getattr(made_by, "outputs", None):
        return output_layers(made_by)
    if getattr(made_by, "weights", None) or not made_by._inbound_nodes:
        return [made_by]
    before = made_by._inbound_nodes[index].arguments.keras_tensors
    return [layer for tensor in before[:1] for layer in _makers(tensor)]


def graft(target: Any, mixin: type, serialized_as: str | None = None) -> None:
    """Puts `mixin` before the class of an object, under the class's own name.

    Args:
        target: A layer or model.
        mixin: The class whose methods come first.
        serialized_as: Registered name under which configurations name the new
            class; without, they name the old one.
    """
    base = type(target)
    grafted = _grafted.get((mixin, base))
    if grafted is None:
        grafted = type(base.__name__, (mixin, base), {"__module__": base.__module__})
        grafted.__qualname__ = base.__qualname__
        _grafted[mixin, base] = grafted
        if serialized_as is not None:
            GLOBAL_CUSTOM_NAMES[grafted] = serialized_as
        elif base in REGISTERED_OBJS_TO_NAMES:
            REGISTERED_OBJS_TO_NAMES[grafted] = REGISTERED_OBJS_TO_NAMES[base]
        elif base in GLOBAL_CUSTOM_NAMES:
            GLOBAL_CUSTOM_NAMES[grafted] = GLOBAL_CUSTOM_NAMES[base]
    object.__setattr__(target, "__class__", grafted)


def ungraft(target: Any, mixin: type) -> None:
    """Takes back `graft`."""
    if isinstance(target, mixin):
        object.__setattr__(target, "__class__", plain_class(target, mixin))


@contextmanager
def ungrafted(target: Any, mixin: type) -> Iterator[None]:
    """Within, an object has the class that it had before `graft`."""
    now = type(target)
    object.__setattr__(target, "__class__", plain_class(target, mixin))
    try:
        yield
    finally:
        object.__setattr__(target, "__class__", now)


def plain_class(target: Any, mixin: type) -> type:
    """The class that an object had before `graft`."""
    order = type(target).__mro__
    return order[order.index(mixin) + 1] if mixin in order else order[0]


_grafted: dict[tuple[type, type], type] = {}


def attach_child(layer: keras.layers.Layer, name: str, child: keras.layers.Layer) -> None:
    """Makes a layer the child of a built one, as an attribute."""
    with _unlocked(layer):
        setattr(layer, name, child)


def detach_child(layer: keras.layers.Layer, name: str) -> None:
    """Takes back `attach_child`."""
    layer._tracker.untrack(getattr(layer, name))
    delattr(layer, name)


def refresh_torch_parameters(model: keras.layers.Layer) -> None:
    """Lets `model.parameters()` see variables that came or went. Torch only."""
    if keras.backend.backend() == "torch":
        for layer in all_layers(model):
            layer._track_variables()


def is_made(model: keras.Model) -> bool:
    """Whether a model's construction has come as far as to have layers."""
    return hasattr(model, "_layers")


def all_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A layer and every layer below it."""
    return list(layer._flatten_layers())


def direct_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights of a layer itself, in the order of its files, without those of its children."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def trainable_by_birth(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The direct weights that were made to be trained, frozen or not."""
    return list(layer._trainable_variables)


def let_train(layer: keras.layers.Layer) -> None:
    """Sets a layer's own `trainable`, and that of nothing below it, until `let_move`."""
    _remember_trainable(layer)
    layer._trainable = True


def hold_still(layer: keras.layers.Layer) -> None:
    """Freezes a layer as a whole until `let_move`."""
    _remember_trainable(layer)
    layer._trainable = False


def let_move(layer: keras.layers.Layer) -> None:
    """Takes back `let_train` and `hold_still`."""
    if "trainable_at_first" in vars(layer):
        layer._trainable = vars(layer).pop("trainable_at_first")


def set_until_move(layer: keras.layers.Layer, value: bool) -> None:
    """`let_train` or `hold_still`."""
    let_train(layer) if value else hold_still(layer)


def changed_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that `let_move` would set back."""
    return [layer for layer in all_layers(model) if "trainable_at_first" in vars(layer)]


@contextmanager
def trainable_as_at_first(model: keras.layers.Layer) -> Iterator[None]:
    """Within, each layer's own `trainable` is what `let_move` would restore."""
    now = [(layer, layer._trainable) for layer in changed_layers(model)]
    for layer, _ in now:
        layer._trainable = vars(layer)["trainable_at_first"]
    try:
        yield
    finally:
        for layer, value in now:
            layer._trainable = value


def _remember_trainable(layer: keras.layers.Layer) -> None:
    vars(layer).setdefault("trainable_at_first", layer.trainable)


class PinnedVariable(keras.Variable):
    """A variable that stays frozen when `trainable` is set on a layer above it."""

    @property
    def trainable(self) -> bool:
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = False


def pin(variable: keras.Variable) -> None:
    """Freezes a variable until `unpin`."""
    if isinstance(variable, PinnedVariable):
        return
    variable.trained_before_pin = variable.trainable
    variable.trainable = False
    variable.__class__ = PinnedVariable


def is_pinned(variable: keras.Variable) -> bool:
    """Whether `pin` holds a variable."""
    return isinstance(variable, PinnedVariable)


def unpin(variable: keras.Variable) -> None:
    """Gives a pinned variable back the `trainable` it had."""
    if isinstance(variable, PinnedVariable):
        variable.__class__ = keras.Variable
        variable.trainable = variable.trained_before_pin


def exclude_from_weight_decay(
    optimizer: keras.optimizers.Optimizer,
    variables: list[keras.Variable],
    among: list[keras.Variable],
) -> None:
    """Excludes variables from decay on top of what was excluded before.

    Where none is left to decay, decay itself is skipped: on torch, Keras would pass an empty list
    to an operation that refuses one.
    """
    before: set[Any] = getattr(optimizer, "_exclude_from_weight_decay", set())
    optimizer._exclude_from_weight_decay = before | {optimizer._var_key(v) for v in variables}
    optimizer._exclude_from_weight_decay_cache = {}
    if not any(optimizer._use_weight_decay(v) for v in among):
        optimizer._apply_weight_decay = lambda variables: None


def peak_learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """The learning rate, or the highest that a schedule reaches early on."""
    rate = optimizer._learning_rate
    with _outside_any_graph():
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return max(float(rate(step)) for step in (0, 10, 100, 1000, 10000))
        return float(ops.convert_to_numpy(rate() if callable(rate) else rate))


def _outside_any_graph() -> AbstractContextManager[Any]:
    """TensorFlow builds an optimizer while it traces, where variables have no values."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.init_scope()
    return nullcontext()


def fresh_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """An unbuilt copy of an optimizer, with what it excludes from weight decay."""
    copy = type(optimizer).from_config(optimizer.get_config())
    for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if hasattr(optimizer, name):
            setattr(copy, name, getattr(optimizer, name))
    if hasattr(optimizer, "inner_optimizer"):
        copy.inner_optimizer = fresh_optimizer(optimizer.inner_optimizer)
    return copy


def dequantized(layer: keras.layers.Layer, integers: Any) -> Any:
    """The kernel of an int8 or int4 layer as floats, of the integers that its `kernel` gives.

    Keras 3.15 keeps how a scale lies beside the kernel of an EinsumDense, and the groups of int4,
    in private. int8 and int4 divide by a scale; grouped int4 multiplies, after a zero point.
    """
    shape = tuple(integers.shape)
    kernel, scale = ops.cast(integers, "float32"), ops.cast(layer.kernel_scale, "float32")
    if layer.quantization_mode == "int8":
        if isinstance(layer, keras.layers.EinsumDense):
            scale = layer._adjust_scale_for_dequant(scale)
        return ops.divide(kernel, scale)
    rows = layer._int4_rows if isinstance(layer, keras.layers.EinsumDense) else shape[0]
    kernel = ops.reshape(kernel, (rows, -1))
    if getattr(layer, "kernel_zero", None) is None:
        return ops.reshape(ops.divide(kernel, scale), shape)
    group = ops.cast(layer.g_idx, "int32")
    zero = ops.take(ops.cast(layer.kernel_zero, "float32"), group, axis=0)
    return ops.reshape((kernel - zero) * ops.take(scale, group, axis=0), shape)


def make_float(layer: Any, kernel: Any, policy: Any) -> Callable[[], None]:
    """Gives an int8 or int4 layer a float kernel for its integers, as it had before `quantize`.

    Keras 3.15 has no way back of its own, and keeps the kernel and what tells its kind in private.

    Returns:
        What takes it back.
    """
    names = [n for n in ("_kernel", "kernel_scale", "kernel_zero", "g_idx") if hasattr(layer, n)]
    before = {name: getattr(layer, name) for name in names}
    quantized_policy, config = _own_policy(layer), layer.quantization_config
    with _unlocked(layer):
        floats = layer.add_weight(  # the one step that may want for memory: nothing is touched yet
            name="kernel",
            shape=tuple(kernel.shape),
            initializer=lambda shape, dtype=None: ops.cast(kernel, dtype),
            dtype=keras.dtype_policies.get(policy).variable_dtype,
            regularizer=layer.kernel_regularizer,
        )
        for name in names:
            delattr(layer, name)
        layer._is_quantized, layer.quantization_config = False, None
        layer.dtype_policy = policy
        layer._kernel = floats
        weights = layer._trainable_variables  # the kernel comes before the bias, as after `build`
        weights.insert(0, weights.pop())

    def take_back() -> None:
        with _unlocked(layer):
            del layer._kernel
            for name, value in before.items():
                setattr(layer, name, value)
            layer._is_quantized, layer.quantization_config = True, config
            layer.dtype_policy = quantized_policy

    return take_back


def _own_policy(layer: Any) -> Any:
    """The dtype policy of a layer itself, which a loaded model keeps in a map of all its layers."""
    policy = layer.dtype_policy
    return policy[layer.path] if isinstance(policy, keras.dtype_policies.DTypePolicyMap) else policy


@contextmanager
def _unlocked(layer: Any) -> Iterator[None]:
    """Within, a built layer may get new weights and children."""
    locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        yield
    finally:
        if locked:
            layer._tracker.lock()


def sharding_of(variable: keras.Variable) -> Any:
    """How JAX has spread a variable over devices; `None` elsewhere, or without a value yet."""
    return getattr(variable._value, "sharding", None)


def lay_out(variable: keras.Variable, layout: Any) -> None:
    """Lets a variable lie on the devices as a layout says, now and when it is assigned (JAX)."""
    if layout is None:
        return
    before = variable._layout
    variable._layout = layout
    try:
        variable.assign(variable.value)
    except BaseException:
        variable._layout = before
        raise


@contextmanager
def laid_out_as_before_on_failure(variables: list[keras.Variable]) -> Iterator[None]:
    """Within, whatever goes wrong, the variables lie where they lay."""
    before = [(v, v._layout) for v in variables]
    try:
        yield
    except BaseException:
        for variable, layout in before:
            if variable._layout is not layout:
                lay_out(variable, layout)
        raise


def trace_shapes(function: Callable[..., Any], *specs: Any) -> None:
    """Calls a function, and the layers in it, with inputs that have shapes and no values."""
    compute_output_spec(function, *specs)
