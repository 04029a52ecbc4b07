"""One configuration for each kernel, so that errors are small and all kernels fit a budget.

    minimize sum_ij e_ij x_ij      sum_j x_ij = 1,  sum_ij b_ij x_ij <= budget,  x_ij is 0 or 1

e are squared errors and b sizes of kernel i in configuration j, as in LQ-LoRA: Guo et al. 2023,
arXiv:2311.12023.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SECONDS = 60.0  # then the best that was found


def allocate(errors: Sequence[Sequence[float]], sizes: np.ndarray, budget: float) -> list[int]:
    """Return the number of the configuration of each kernel.

    The sum of the errors is the smallest one to a ten-thousandth.

    Args:
        errors: The squared error of each kernel in each configuration.
        sizes: The size of each kernel in each configuration, an array of the
            same shape.
        budget: The largest sum of the sizes, at least that of the smallest
            configurations.

    Raises:
        RuntimeError: If the solver finds no solution.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import
    from scipy.sparse import block_diag, csr_array

    cost = np.asarray(errors, dtype="float64")
    kernels, configurations = cost.shape
    scale = cost.sum() or 1.0  # the solver's tolerances are absolute
    one_each = csr_array(block_diag([np.ones((1, configurations))] * kernels))
    room = np.asarray(sizes, dtype="float64").reshape(1, -1) / max(budget, 1.0)
    found = milp(
        cost.ravel() / scale,
        integrality=np.ones(cost.size),
        bounds=Bounds(0, 1),
        options={"time_limit": SECONDS},
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(room, -np.inf, 1)],
    )
    if found.x is None:
        raise RuntimeError(
            "The solver found no configuration of the kernels: give more bits, or one mode for all "
            f"kernels. Received: budget={budget:g}, {found.message}"
        )
    return [int(each) for each in np.argmax(found.x.reshape(cost.shape), axis=1)]
