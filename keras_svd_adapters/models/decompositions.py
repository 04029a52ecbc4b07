"""The decompositions that the methods of a model need."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import chain
from math import prod

import numpy as np

from keras_svd_adapters.kernels.svd.job import Job
from keras_svd_adapters.kernels.svd.service import SVDService
from keras_svd_adapters.methods.contract import SVD, Truncation
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.progress import KernelProgress

Found = list[tuple[np.ndarray, SVD | None]]


def needs_svd(site: Site, method: Method) -> bool:
    """Whether the method starts from the decomposition of the kernel."""
    return method.needs_svd


def jobs_for(site: Site, part: Truncation | None = None, is_required: bool = True) -> list[Job]:
    """Return the decomposition job of a kernel, or of each kernel in a stack."""
    shape = (site.view.m, site.view.n)
    return [Job(matrix, shape, part, is_required) for _, matrix in site.matrices()]


def decompositions(
    sites: Sequence[Site], jobs: Sequence[list[Job]], service: SVDService, verbose: int | str
) -> Generator[Found]:
    """Yield the results of `SVDService.each`, grouped by site, with a progress bar.

    An error names the path of the kernel.
    """
    flat = list(chain.from_iterable(jobs))
    work = [prod(job.shape) * min(job.shape) for job in flat]
    results = service.each(flat)
    with KernelProgress(work, verbose) as progress, closing(results):
        for site in sites:
            found = []
            for path, _ in site.matrices():
                try:
                    found.append(next(results))
                except ValueError as error:
                    raise ValueError(f"`{path}`: {error}") from None
                progress.step(path)
            yield found
