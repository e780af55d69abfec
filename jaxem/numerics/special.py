"""Special functions that families need, accurate to rounding in the dtype of their argument."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from numpy.polynomial import Polynomial

#: This is a Python number, because a NumPy number would turn float32 into float64 where x64 is on.
LOG_2PI = math.log(2 * math.pi)
HALF_LOG_2PI = 0.5 * LOG_2PI

#: From this number on Stirling's series with the terms below is exact to float64 rounding.
STIRLING_FROM = 15.0


def stirling_remainder(x: Any) -> Any:
    """The error of Stirling's formula: log x! - (x + 1/2) log x + x - log(2 pi) / 2, for x > 0.

    Abramowitz and Stegun (1964), 6.1.40.
    """
    large = jnp.maximum(x, STIRLING_FROM)
    inverse = 1 / (large * large)
    series = (1 / 12 - inverse * (1 / 360 - inverse * (1 / 1260 - inverse * (1 / 1680 - inverse / 1188)))) / large
    small = jnp.clip(x, 1e-3, STIRLING_FROM)
    direct = gammaln(small + 1) - (small + 0.5) * jnp.log(small) + small - HALF_LOG_2PI
    return jnp.where(x >= STIRLING_FROM, series, direct)


def log_factorial_rest(x: Any) -> Any:
    """The difference log x! - (x log x - x), for counts x >= 0.

    It is small where log x! itself is large and loses digits.
    """
    safe = jnp.where(x > 0, x, 1)
    return jnp.where(x > 0, 0.5 * jnp.log(safe) + HALF_LOG_2PI + stirling_remainder(safe), 0)


def log_poisson(x: Any, mean: Any) -> Any:
    """The log probability log(mean^x exp(-mean) / x!), without cancellation at large counts.

    Loader (2000), equation (4).

    Args:
        x: counts.
        mean: their means, of a shape that broadcasts with x.
    """
    safe = jnp.where(x > 0, x, 1)
    away = (mean - safe) / safe
    deviance = safe * (away - jnp.log1p(away))  # x log(x / mean) + mean - x
    return jnp.where(x > 0, -deviance - log_factorial_rest(safe), -mean)


#: From this number on log(a) - digamma(a) is computed by its asymptotic series, whose last term
#: here is then below float64 rounding.
DIGAMMA_FROM = 16


def log_minus_digamma(a: Any) -> Any:
    """The difference log a - digamma(a) for a > 0, accurate to rounding also at large a.

    Abramowitz and Stegun (1964), 6.3.6 and 6.3.18.
    """
    small = a < DIGAMMA_FROM
    shifted = jnp.where(small, a + DIGAMMA_FROM, a)
    inverse = 1 / (shifted * shifted)
    terms = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760)
    series = jnp.zeros_like(a)
    for term in reversed(terms):
        series = inverse * (term + series)
    series = series + 0.5 / shifted
    below = jnp.where(small, a, DIGAMMA_FROM)
    recurrence = sum(1 / (below + i) for i in range(DIGAMMA_FROM))
    return jnp.where(small, recurrence + jnp.log(below / shifted) + series, series)


def solve_gamma_shape(gap: Any) -> Any:
    """The shape a > 0 at which log a - digamma(a) = gap, for gap > 0.

    It is computed by Newton's method in 1 / a; Minka (2002). The first guess has an error of at
    most 1.5 %, and each step squares the error.
    """
    guess = (3 - gap + jnp.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)
    for _ in range(4):
        value, slope = jax.jvp(log_minus_digamma, (guess,), (jnp.ones_like(guess),))
        guess = 1 / (1 / guess + (value - gap) / (slope * guess * guess))
    return guess


def root_between(function: Callable, start: Any, end: Any) -> Any:
    """The root of a function between two ends, by bisection.

    Where the ends are a few units apart, the interval that is left is below rounding.

    Args:
        function: a function of an array of numbers, one for each problem; it is positive at
            `start`.
        start: one end for each problem.
        end: the other end for each problem.

    Returns:
        The root of each problem; about `end` where the function stays positive.
    """
    n_halvings = 52 if start.dtype == jnp.float64 else 26

    def halve(_, bracket):
        near, far = bracket
        middle = 0.5 * (near + far)
        positive = function(middle) > 0
        return jnp.where(positive, middle, near), jnp.where(positive, far, middle)

    near, far = jax.lax.fori_loop(0, n_halvings, halve, (start, end))
    return 0.5 * (near + far)


#: The order from which Olver's expansion is used, by the bytes of the dtype. There its error with
#: the terms below is smaller than the rounding of the dtype.
OLVER_FROM = {4: 8, 8: 24}
OLVER_TERMS = 10


def _olver_polynomials():
    """Coefficients in p of u_1, u_2, ... and of (u_k - v_k) / (1 - p^2), for k >= 1.

    Abramowitz and Stegun (1964), equations (9.3.10) and (9.3.14).
    """
    u, all_u, all_w = Polynomial([1.0]), [], []
    weight, inner, p = Polynomial([0, 0, 0.5, 0, -0.5]), Polynomial([0.125, 0, -0.625]), Polynomial([0.0, 1])
    for _ in range(OLVER_TERMS):
        all_w.append((p * (0.5 * u + p * u.deriv())).coef.tolist())
        u = weight * u.deriv() + (inner * u).integ()
        all_u.append(u.coef.tolist())
    return all_u, all_w


OLVER_U, OLVER_W = _olver_polynomials()


def _series(polynomials, p, order):
    """The sum of polynomial_k(p) / order^k over k >= 1."""
    total = jnp.zeros_like(p)
    for coefficients in reversed(polynomials):
        term = jnp.zeros_like(p)
        for coefficient in reversed(coefficients):
            term = term * p + coefficient
        total = (total + term) / order
    return total


def _olver(order, x):
    """`log_bessel` for large orders, without its term -order log(order + root), and root.

    Abramowitz and Stegun (1964), equations (9.7.7) and (9.7.9).
    """
    root = jnp.sqrt(order * order + x * x)
    u = _series(OLVER_U, order / root, order)
    w = _series(OLVER_W, order / root, order)
    # order^2 / (root + x) equals root - x. The factor x^order is left out of
    # (x / (order + root))^order.
    rest = order * (order / (root + x)) - 0.5 * jnp.log(root) - HALF_LOG_2PI + jnp.log1p(u)
    return rest, 1 / (root + order) - w / (root * (1 + u)), root


def log_bessel(order: Any, x: Any) -> Any:
    """The log of the modified Bessel function I of a fixed order >= 0, for any x >= 0.

    The recurrence I_{v-1} = I_{v+1} + (2 v / x) I_v starts at a large order, where Olver's
    expansion holds, and goes down. All its terms are positive, so that nothing cancels; nothing is
    singular at x = 0 or overflows at large x. Amos (1974); Abramowitz and Stegun (1964), sections
    9.6 and 9.7.

    Args:
        order: a Python number.
        x: an array.

    Returns:
        (log(I_order(x) / x^order) - x, I_{order + 1}(x) / (x I_order(x))).
    """
    steps = max(0, math.ceil(OLVER_FROM[x.dtype.itemsize] - order))
    top = order + steps
    log_scaled, ratio, root = _olver(top, x)
    for v in range(steps, 0, -1):
        ratio = 1 / (2 * (order + v) + x * x * ratio)
        # One log(top + root) is added in every step, because the sum of all of them is large and
        # would lose digits.
        log_scaled = log_scaled - jnp.log(ratio * (top + root))
    return log_scaled - order * jnp.log(top + root), ratio
