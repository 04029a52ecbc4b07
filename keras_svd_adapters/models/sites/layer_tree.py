"""The layers of a model as a few lines of text."""

from __future__ import annotations

from collections.abc import Iterable

from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.path_groups import group_paths


def format_layer_tree(sites: Iterable[Site]) -> str:
    """Format paths with collapsed numbers: `layer_{0..5}/query  EinsumDense (384, 12, 32)`."""
    lines = [
        (path, what) for path, what, _ in group_paths((site.path, _what(site)) for site in sites)
    ]
    width = max((len(path) for path, _ in lines), default=0)
    return "\n".join(f"{path:<{width}}  {what}" for path, what in lines)


def _what(site: Site) -> str:
    return f"{site.kind} ({', '.join(str(size) for size in site.shape)})"
