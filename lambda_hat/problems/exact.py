"""Exact LLCs of losses in closed form, at finite n, and their limits."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln, loggamma

from lambda_hat.conf.schema import PosteriorConfig

_MAX_EIGENVALUES = 7
"""Largest Wishart matrix whose eigenvalues are integrated over."""
_MAX_CONDITION = 1e7
"""Of the Pfaffian's matrix; a larger one leaves fewer than eight digits."""
_STEP = 1e-20
"""Complex step, the derivative's only approximation."""


def quadratic_llc(curvature: np.ndarray, nbeta: float, gamma: float) -> float:
    """sum_i 1/2 nbeta h_i / (nbeta h_i + gamma)."""
    h = np.asarray(curvature)
    return float(np.sum(0.5 * nbeta * h / (nbeta * h + gamma)))


def product_llc(
    nbeta: float, gamma: float, *, dims: tuple[int, ...], powers: tuple[int, ...], scale: float = 1
) -> float:
    """The exact LLC of K = scale prod_i |v_i|^(2 k_i), v_i of `dims[i]` parameters.

    The Mellin-Barnes integral of exp(-nbeta K) against the tether's moments,

        Z = 1/(2 pi i) int Gamma(s) (nbeta scale)^-s prod_i E|v_i|^(-2 k_i s) ds,
        E|v|^(-2 k s) = (gamma/2)^(k s) Gamma(a/2 - k s) / Gamma(a/2),  v ~ N(0, I_a / gamma),

    gives llc = -d log Z / d log nbeta as the mean of s. The integrand decays exponentially along
    the contour, where the trapezoidal rule converges exponentially.
    """
    pole = min(a / (2 * k) for a, k in zip(dims, powers, strict=True))
    centre = 0.5 * pole
    reach = 60 / (1 + sum(powers)) + 10
    s = centre + 1j * np.arange(-reach, reach, pole / 40)
    log_f = loggamma(s) - s * np.log(nbeta * scale)
    for a, k in zip(dims, powers, strict=True):
        log_f = log_f + k * s * np.log(gamma / 2) + loggamma(a / 2 - k * s) - gammaln(a / 2)
    weights = np.exp(log_f - log_f.real.max())
    return float(np.real(np.sum(s * weights)) / np.real(np.sum(weights)))


def two_layer_llc(widths: tuple[int, int, int], nbeta: float, gamma: float) -> float | None:
    """The exact LLC of K = 1/2 |W2 W1|^2 at w* = 0; None where too many eigenvalues are left.

    W1 is Gaussian given W2 and integrates to prod_i (1 + nbeta x_i / gamma)^(-H_1/2) with x_i the
    eigenvalues of the Wishart matrix W2 W2'. Their joint density (Laguerre ensemble, exponent 1)
    integrates to a Pfaffian (de Bruijn 1955). The derivative is taken by a complex step.
    """
    inputs, hidden, outputs = widths
    one_way = (min(outputs, hidden), max(outputs, hidden), inputs)
    other_way = (min(inputs, hidden), max(inputs, hidden), outputs)
    size, freedom, rest = min(one_way, other_way)
    if size > _MAX_EIGENVALUES:
        return None
    log_x = _panel_points(-90.0, np.log((2 / gamma) * (60 + 10 * (size + freedom))))
    x = np.exp(log_x.nodes)
    log_density = 0.5 * (freedom - size + 1) * log_x.nodes - 0.5 * gamma * x
    log_density -= 0.5 * rest * np.log1p(nbeta * x / gamma)
    density = np.exp(log_density - log_density.max())
    root = np.sqrt(density * log_x.weights)
    ladder = np.vander(x / np.average(x, weights=root**2), size) * root[:, None]
    orthonormal = np.linalg.qr(ladder)[0]
    slope = -0.5 * rest * nbeta * x / (gamma + nbeta * x)
    tilt = 1 + 1j * _STEP * slope  # exp(i step slope), to first order, which is all there is.
    values = np.where(root > 0, density / np.maximum(root, 1e-300) * tilt, 0)[:, None] * orthonormal
    pairs = _ordered_pairs(values, log_x)
    if np.linalg.cond(pairs) > _MAX_CONDITION:
        return None
    sign, _ = np.linalg.slogdet(pairs)  # Pf^2 = det, and the size is no part of the derivative.
    return -0.5 * float(np.imag(np.log(sign)) / _STEP)


def aoyagi(widths: tuple[int, ...], rank: int) -> tuple[float, int]:
    """RLCT and multiplicity of a deep linear network (Aoyagi 2024, Neural Networks 172:106132).

    Args:
        widths: H_1 .. H_{L+1}, L >= 1 layers.
        rank: Of the true product.
    """
    spare = sorted(h - rank for h in widths)
    for size in range(2, len(spare) + 1):
        prefix, ell, total = spare[:size], size - 1, sum(spare[:size])
        last = size == len(spare)
        ends = last or (prefix[-1] < spare[size] and total < ell * spare[size])
        if total >= ell * prefix[-1] and ends:
            break
    else:
        raise ValueError(f"widths={widths}, rank={rank} must have a prefix of Aoyagi's theorem.")
    a = total - (-(-total // ell) - 1) * ell
    pairs = sum(x * y for x, y in itertools.combinations(prefix, 2))
    regular = (rank * (widths[0] + widths[-1]) - rank**2) / 2
    singular = a * (ell - a) / (4 * ell) - ell * (ell - 1) / 4 * (total / ell) ** 2 + pairs / 2
    return regular + singular, a * (ell - a) + 1


def regression_curvature(
    design: Float[np.ndarray, "n k"], outputs: int, posterior: PosteriorConfig
) -> Float[np.ndarray, " d"]:
    """Eigenvalues of the Hessian of a linear regression: X'X/n times the loss's own factor."""
    factor = 2 / outputs if posterior.loss == "mse" else 1 / (posterior.noise_scale or 1.0) ** 2
    eigenvalues = np.linalg.svd(design, compute_uv=False) ** 2 / len(design)
    return np.tile(factor * eigenvalues, outputs)


class _Panels(NamedTuple):
    """Gauss-Legendre points on equal panels of an interval."""

    nodes: Float[np.ndarray, " p"]
    weights: Float[np.ndarray, " p"]
    within: Float[np.ndarray, "q q"]
    """Integrates from a panel's start to each of its points."""


def _panel_points(low: float, high: float, width: float = 0.25, order: int = 16) -> _Panels:
    legendre = np.polynomial.legendre
    x, w = legendre.leggauss(order)
    edges = np.linspace(low, high, int(np.ceil((high - low) / width)) + 1)
    half = (edges[1] - edges[0]) / 2
    nodes = (edges[:-1, None] + half * (1 + x)).ravel()
    to_coefficients = np.linalg.inv(legendre.legvander(x, order - 1))
    integrals = [legendre.legval(x, legendre.legint(c, lbnd=-1)) for c in to_coefficients.T]
    return _Panels(nodes, np.tile(half * w, len(edges) - 1), half * np.stack(integrals, axis=1))


def _ordered_pairs(values: np.ndarray, panels: _Panels) -> np.ndarray:
    """The matrix int int sign(y - x) f_i(x) f_j(y) dx dy, with a border int f_i if it is odd."""
    size, order = values.shape[1], len(panels.within)
    total = panels.weights @ values
    blocks = values.reshape(-1, order, size)
    sums = np.einsum("p,npk->nk", panels.weights[:order], blocks)
    before = np.cumsum(sums, axis=0) - sums
    below = (before[:, None] + np.einsum("qp,npk->nqk", panels.within, blocks)).reshape(-1, size)
    pairs = (2 * below - total).T @ (panels.weights[:, None] * values)
    pairs = (pairs - pairs.T) / 2
    if size % 2:
        pairs = np.block([[pairs, total[:, None]], [-total[None], np.zeros((1, 1))]])
    return pairs
