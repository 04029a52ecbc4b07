"""From patterns to sites, with errors that say what there is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Any

import keras

from keras_svd_adapters.blocks import PRESETS, default_sites, numbered, preset_sites
from keras_svd_adapters.site import Site, find_sites
from keras_svd_adapters.tree import tree
from keras_svd_adapters.warning import warn

Pattern = str | re.Pattern[str] | Callable[[Site], bool]
Targets = Pattern | Iterable[Pattern] | Mapping[Any, Any] | None


def choose(
    model: keras.layers.Layer,
    targets: Targets = None,
    exclude: Targets = None,
    layers: Iterable[int] | None = None,
    last: int | None = None,
    tied: bool = False,
) -> list[Site]:
    """The sites of a model that `targets` names and `exclude` does not.

    Args:
        model: A built Keras model or layer.
        targets: `None` for every Dense, EinsumDense and kernel of an expert inside
            the repeated blocks (in a model without such, every one but the
            output head; in one of convolutions, these); or
            an exact layer name or path, a glob with `*` or `?`, a compiled
            regular expression searched in the path, a callable on a `Site`, or
            a list of these. A glob or a regular expression never means an
            embedding. Where no layer has such a name, `"attention"` and
            `"mlp"` mean these parts of the blocks, and `"all"` every kernel
            but the output head.
        exclude: Likewise, what to leave out.
        layers: Numbers of the outermost repeated blocks, from 0; what lies
            outside of such is not touched by it.
        last: How many of these blocks, from the end.
        tied: Whether a table that also makes the logits can be adapted.

    Returns:
        A list of `Site`.

    Raises:
        ValueError: If a pattern matches nothing, or a layer that cannot be
            adapted.
    """
    sites = find_sites(model)
    if not sites:
        raise ValueError(_nothing_to_adapt(model))
    chosen = (
        default_sites(model, sites)
        if targets is None
        else _matching(model, sites, targets, "targets")
    )
    if exclude is not None:
        left_out = _matching(model, sites, exclude, "exclude")
        chosen = [site for site in chosen if site not in left_out]
    if layers is not None or last is not None:
        chosen = _in_blocks(sites, chosen, layers, last)
    if not chosen:
        raise ValueError(
            "No layer is left to adapt: name one in `targets`, or take a pattern out of "
            f"`exclude`. The model has\n{tree(sites)}\n"
            f"Received: targets={targets!r}, exclude={exclude!r}, layers={layers!r}, last={last!r}"
        )
    blocked = [(site, why) for site in chosen if (why := site.obstacle(tied))]
    if blocked and targets is not None and not _all_words(targets, sites):
        site, why = blocked[0]
        raise ValueError(
            f"`{site.path}` cannot be adapted: {why}. Leave it out with `exclude`. "
            f"Received: targets={targets!r}"
        )
    chosen = [site for site in chosen if not site.obstacle(tied)]
    if not chosen:
        site, why = blocked[0]
        raise ValueError(
            f"No kernel can be adapted: `{site.path}`: {why}. Received: targets={targets!r}"
        )
    if blocked:
        _tell_of_blocked(blocked, targets)
    return chosen


def _all_words(targets: Targets, sites: list[Site]) -> bool:
    """Whether targets are nothing but words such as `"mlp"`, which name no layer."""
    listed = [targets] if isinstance(targets, str) else targets
    if not isinstance(listed, (list, tuple)):
        return False
    return all(
        isinstance(each, str) and each in PRESETS and not any(matches(s, each) for s in sites)
        for each in listed
    )


def _tell_of_blocked(blocked: list[tuple[Site, str]], targets: Targets) -> None:
    shown = "; ".join(f"`{site.path}`: {why}" for site, why in blocked[:3])
    more = "; ..." * (len(blocked) > 3)
    warn(
        f"{len(blocked)} of the layers that are meant without a name cannot be adapted: "
        f"{shown}{more}. To go without them and without this warning, name them in `exclude`. "
        f"Received: targets={targets!r}"
    )


def _nothing_to_adapt(model: keras.layers.Layer) -> str:
    if not model.built:
        return (
            "The model is not built, so it has no kernels yet: call it on a batch, or "
            f"`model.build(input_shape)`, first. Received: {model!r}"
        )
    return (
        "The model has no kernel that can be adapted: no built Dense, EinsumDense, convolution, "
        "recurrent cell or layer of experts. For weights that your own layer reads, "
        f'`register_kernels(MyLayer, w="mn")`. Received: {model!r}'
    )


def _matching(
    model: keras.layers.Layer, sites: list[Site], patterns: Targets, argument: str
) -> list[Site]:
    listed = (
        [patterns] if isinstance(patterns, (str, re.Pattern)) or callable(patterns) else patterns
    )
    found: set[str] = set()
    for pattern in listed:  # type: ignore[union-attr]
        hits = {site.key for site in meant_by(pattern, model, sites)}
        if not hits:
            raise ValueError(_no_match(sites, pattern, argument))
        found |= hits
    return [site for site in sites if site.key in found]


def meant_by(pattern: Pattern, model: keras.layers.Layer, sites: list[Site]) -> list[Site]:
    """Those of all sites of a model that one pattern means."""
    found = [site for site in sites if matches(site, pattern)]
    if not found and isinstance(pattern, str) and pattern in PRESETS:
        return preset_sites(pattern, model, sites)
    return found


def matches(site: Site, pattern: Pattern) -> bool:
    """Whether a pattern means a site; an embedding is meant by name, path or callable only."""
    if isinstance(pattern, re.Pattern):
        return not site.host.looks_up and pattern.search(site.path) is not None
    is_layer = isinstance(pattern, (keras.layers.Layer, type))
    if callable(pattern) and not is_layer:
        return bool(pattern(site))
    if is_layer or not isinstance(pattern, str):
        raise ValueError(
            "A target is a layer's name (`layer.name`), a path, a glob, a compiled regular "
            f"expression or a callable on a site. Received: {pattern!r}"
        )
    names = {name for path in _paths(site) for name in _suffixes(path)}
    if "*" in pattern or "?" in pattern:
        return not site.host.looks_up and any(fnmatchcase(name, pattern) for name in names)
    return pattern in names or pattern == site.key


def _paths(site: Site) -> list[str]:
    """The path of a kernel, and those of the layers that read it, as of an LSTM and its cell."""
    above = len(site.chain) - 1 - len(site.around)
    return [site.path.rsplit("/", count)[0] for count in range(above + 1)]


def _suffixes(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[i:]) for i in range(len(parts)))


def _in_blocks(
    sites: list[Site], chosen: list[Site], layers: Iterable[int] | None, last: int | None
) -> list[Site]:
    """Those that lie in some of the repeated blocks, or in none."""
    numbers = numbered(sites)
    received = f"Received: layers={layers!r}, last={last!r}"
    if layers is not None and last is not None:
        raise ValueError(f"Give `layers` or `last`, not both. {received}")
    most = max((count for _, count in numbers.values()), default=0)
    if not most:
        raise ValueError(f"The model has no repeated blocks to choose among. {received}")
    if last is not None:
        if not _is_number(last) or not 0 < last <= most:
            raise ValueError(f"`last` is a number of blocks, of {most} at most. {received}")
        return [s for s in chosen if s.key not in numbers or _from_end(numbers[s.key]) <= last]
    wanted = list(layers) if isinstance(layers, Iterable) else []
    if not wanted or not all(_is_number(each) and 0 <= each < most for each in wanted):
        raise ValueError(
            f"`layers` holds numbers of the {most} repeated blocks, from 0, such as "
            f"`range({most // 2}, {most})`. {received}"
        )
    return [s for s in chosen if s.key not in numbers or numbers[s.key][0] in wanted]


def _is_number(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _from_end(place: tuple[int, int]) -> int:
    number, count = place
    return count - number


def _no_match(sites: list[Site], pattern: Any, argument: str) -> str:
    names = sorted({site.name for site in sites} | {site.path for site in sites} | set(PRESETS))
    near = difflib.get_close_matches(str(pattern), names, n=3, cutoff=0.4)
    tables = any(site.host.looks_up for site in sites)
    rule = "An embedding is named by its exact name. " if tables else ""
    hint = f"Did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
    return (
        f"`{argument}` matches no layer that can be adapted. {hint}{rule}The model has\n"
        f"{tree(sites)}\nReceived: {argument}={pattern!r}"
    )
