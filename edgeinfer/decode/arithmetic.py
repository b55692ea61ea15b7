"""e^x and the natural logarithm with the same bits on every processor.

The last bit of NumPy's own depends on the processor. These are IEEE additions, multiplications and divisions of
float64 only; mobile/runtime/decode/arithmetic.h does the same ones in the same order.
"""

from __future__ import annotations

from math import factorial
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]

LOG2_E: Final = 1.4426950408889634
LN2_HIGH: Final = 2977044471 / 2**32  # 32 bits of ln 2, so that a product with an exponent is exact
LN2_LOW: Final = 1.9082149292705877e-10
ROOT_HALF: Final = 0.7071067811865476
EXP_TERMS: Final = 13
LOG_TERMS: Final = 10


def exp(x: Doubles) -> Doubles:
    """e^x for |x| < 700, within 1 ulp: [n] float64. Taylor's series, after x is reduced to half of ln 2 around 0."""
    n = np.rint(x * LOG2_E)
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    total = np.full_like(x, 1 / factorial(EXP_TERMS))
    for k in reversed(range(EXP_TERMS)):
        total = total * r + 1 / factorial(k)
    power_of_two = ((n.astype(np.int64) + 1023) << 52).view(np.float64)
    return total * power_of_two


def log(x: Doubles) -> Doubles:
    """The natural logarithm of normal x > 0, within 2 ulp: [n] float64. The series of 2 artanh((m - 1) / (m + 1))."""
    m, n = np.frexp(x)
    low = m < ROOT_HALF
    m = np.where(low, 2 * m, m)
    exponent = (n - low).astype(np.float64)
    f = m - 1
    s = f / (2 + f)
    z = s * s
    total = np.full_like(z, 1 / (2 * LOG_TERMS + 1))
    for k in reversed(range(1, LOG_TERMS)):
        total = total * z + 1 / (2 * k + 1)
    rest = 2 * s + 2 * s * (z * total)
    result: Doubles = exponent * LN2_HIGH + (exponent * LN2_LOW + rest)
    return result
