"""Map each kernel of a model to its module in a transformers model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import keras

from keras_svd_adapters.adapters.layers.vectors import VECTORS
from keras_svd_adapters.files.peft.families import FAMILIES, GEMMA_3, Family
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.keras_private.layers import all_layers

Modules = Mapping[str, str]


@dataclass(frozen=True)
class Names:
    """Names of the kernels of a model in transformers.

    Args:
        modules: The module of each kernel that has one, by the key of its site.
        task_type: PEFT's name for the task.
        heads: The modules of the head.
        vectors: The module of each layer that exchanges only vectors, by its key.
        older: Older names of both.
    """

    modules: dict[str, str]
    task_type: str | None = None
    heads: frozenset[str] = frozenset()
    vectors: dict[str, str] = field(default_factory=dict)
    older: dict[str, str] = field(default_factory=dict)

    def task_with(self, saved: list[str]) -> str | None:
        """Return the task if every module that PEFT then requires of a head is saved."""
        wanted = {self.saved_as(module) for module in self.heads}
        whole = self.task_type == "CAUSAL_LM" or (wanted and wanted <= set(saved))
        return self.task_type if whole else None

    def saved_as(self, module: str) -> str:
        """Return the module that PEFT saves whole for a trained one: in a head, the whole head."""
        return module.split(".")[0] if module in self.heads else module


def name_modules(
    model: keras.layers.Layer, modules: Modules | None = None, prefix: str | None = None
) -> Names:
    """Return the transformers module of each kernel of a model.

    Args:
        model: A KerasHub backbone or task of a known family, or any model.
        modules: Names that extend or replace those of the table: from the path of a
            kernel, with `{}` for a number, to a module.
        prefix: The name of the bare model within the transformers model; `None` for
            the prefix of the family.

    Raises:
        ValueError: If the family is unknown and no `modules` are given, or if a path in
            `modules` matches no kernel.
    """
    if not isinstance(prefix, str | None):
        raise ValueError(f"`prefix` is a name such as 'model'. Received: prefix={prefix!r}")
    sites = find_sites(model)
    layers = _layers(model)
    own, own_vectors = _own_names(modules or {}, sites, layers)
    backbone, family = _family(model)
    if family is None:
        if not own and not own_vectors:
            raise ValueError(
                "The transformers names of this model's kernels are not known; known are those "
                f"of {', '.join(FAMILIES)}. Give them with `modules=`, such as "
                "`{'block_{}/query': 'encoder.layer.{}.attention.self.query'}`, where "
                f"`{{}}` stands for a number. Received: {type(model).__name__} {model.name!r}"
            )
        _check_each_once(own | own_vectors)
        return Names(own, vectors=own_vectors)
    heads = {}
    if _is_task(model):
        heads = {s.key: family.heads[s.path] for s in sites if s.path in family.heads}
    if prefix is None:
        prefix = _prefix(backbone, family, bool(heads))
    inside = {id(layer): path for path, layer in _layers(backbone).values()}
    paths = {key: inside[id(layer)] for key, (_, layer) in layers.items() if id(layer) in inside}
    names, vectors, older = (
        {key: f"{prefix}.{module}".lstrip(".") for key, module in found.items()}
        for names in (family.kernels, family.vectors, family.older)
        for found in [_matched(names, paths, family.first_block)]
    )
    whole = prefix == _prefix(backbone, family, True)
    task_type = family.task_type if whole else None
    names, vectors = names | heads | own, vectors | own_vectors
    _check_each_once(names | vectors)
    return Names(names, task_type, frozenset(heads.values()), vectors, older)


def _layers(model: keras.layers.Layer) -> dict[str, tuple[str, keras.layers.Layer]]:
    """Return the path and the layer of each kernel, and of each layer with vectors, by key."""
    found = {}
    for kind in VECTORS:
        for site in find_sites(model, kind):
            found[layer_key(site)] = site.path.rpartition("/")[0], site.owner
    return found | {site.key: (site.path, site.layer) for site in find_sites(model)}


def layer_key(vector: Site) -> str:
    """Return the key of the layer of a bias or of a vector of a normalization."""
    return vector.key.rpartition("/")[0]


def _is_task(model: keras.layers.Layer) -> bool:
    """Return whether the head of a model is one of KerasHub's own."""
    return any(cls.__name__ == "Task" for cls in type(model).__mro__)


def _check_each_once(modules: dict[str, str]) -> None:
    for module, count in Counter(modules.values()).items():
        if count > 1:
            keys = [key for key, other in modules.items() if other == module]
            raise ValueError(
                f"Several kernels would be one module: give each its own in `modules`. "
                f"Received: {module!r} for {', '.join(keys)}"
            )


def _family(model: keras.layers.Layer) -> tuple[keras.layers.Layer, Family | None]:
    """Return the backbone of a known family in a model, if there is exactly one."""
    found = {
        id(layer): (layer, GEMMA_3 if _is_gemma_2(layer) else FAMILIES[cls.__name__])
        for layer in all_layers(model)
        for cls in type(layer).__mro__
        if cls.__name__ in FAMILIES
    }
    return next(iter(found.values())) if len(found) == 1 else (model, None)


def _is_gemma_2(backbone: keras.layers.Layer) -> bool:
    return getattr(backbone, "use_post_ffw_norm", False)


def _prefix(backbone: keras.layers.Layer, family: Family, has_head: bool) -> str:
    if family is GEMMA_3 and getattr(backbone, "vision_encoder", None) is not None:
        return "model.language_model"
    return family.prefix if has_head or family.task_type == "CAUSAL_LM" else ""


def _own_names(
    modules: Modules, sites: list[Site], layers: dict[str, tuple[str, keras.layers.Layer]]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the modules that the user names: of kernels, and of layers with vectors alone."""
    texts = isinstance(modules, Mapping) and all(
        isinstance(text, str) and re.fullmatch(r"([^{}]|\{\})+", text)
        for text in (*modules.keys(), *modules.values())
    )
    if not texts:
        raise ValueError(
            "`modules` maps paths of kernels to modules, such as `{'up_{}': "
            f"'layers.{{}}.fc'}}`. Received: modules={modules!r}"
        )
    paths = {key: path for key, (path, _) in layers.items()}
    for pattern, module in modules.items():
        if pattern.count("{}") != module.count("{}"):
            raise ValueError(
                "A path and its module in `modules` need the same number of `{}`. Received: "
                f"{pattern!r}: {module!r}"
            )
        if not _matched({pattern: module}, paths):
            raise ValueError(
                "`modules` names no kernel and no normalization of the model by this path; "
                f"`targets(model, '*')` shows those of kernels. Received: {pattern!r}"
            )
    found, kernels = _matched(modules, paths), {site.key for site in sites}
    return (
        {key: module for key, module in found.items() if key in kernels},
        {key: module for key, module in found.items() if key not in kernels},
    )


def _matched(names: Modules, paths: Mapping[str, str], first_block: int = 0) -> dict[str, str]:
    """Return the module names of the keys whose path matches a pattern."""
    found = {}
    for pattern, module in names.items():
        shape = re.compile(r"(\d+)".join(map(re.escape, pattern.split("{}"))))
        for key, path in paths.items():
            if match := shape.fullmatch(path):
                numbers = (int(number) - first_block for number in match.groups())
                found[key] = module.format(*numbers)
    return found


def prefix_in(told: Iterable[str], bare: Iterable[str]) -> str | None:
    """Return the most common prefix of a bare model's modules in a list of modules, if any."""
    known = set(bare)
    found: Counter[str] = Counter()
    for module in told:
        parts = module.split(".")
        splits = ((".".join(parts[:i]), ".".join(parts[i:])) for i in range(len(parts)))
        found.update([prefix for prefix, rest in splits if rest in known][:1])
    return found.most_common(1)[0][0] if found else None
