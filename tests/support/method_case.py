"""One row of the table of methods."""

from dataclasses import dataclass

import keras_svd_adapters as ksa


@dataclass(frozen=True)
class MethodCase:
    method: ksa.Method
    reference: object  # float64 closed form: (K, arrays) -> (K', gradients)
    square_only: bool = False
    exact_at_start: bool = True
    variant: bool = False  # differs from another row in its equation alone
    kept: float = (
        0.85  # of a change of a thousandth in bfloat16; scales of outputs are rounded away
    )
