"""Distributions of inputs and of label noise, each with settings of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lambda_hat.conf.checks import bounded


@dataclass(frozen=True)
class GaussIso:
    """x ~ N(0, scale^2 I)."""

    kind: Literal["gauss_iso"]
    scale: float = bounded(1.0, above=0)


@dataclass(frozen=True)
class GaussAniso:
    """Correlated Gaussian: standard deviations from `scale` down to `scale/condition`, rotated."""

    kind: Literal["gauss_aniso"]
    scale: float = bounded(1.0, above=0)
    condition: float = bounded(10.0, least=1)


@dataclass(frozen=True)
class Mixture:
    """Equal mixture of Gaussians N(c_k, scale^2 I) with centres c_k ~ N(0, spread^2 I)."""

    kind: Literal["mixture"]
    components: int = bounded(4, least=1)
    spread: float = bounded(2.0, above=0)
    scale: float = bounded(0.5, above=0)


@dataclass(frozen=True)
class LowdimManifold:
    """A curved manifold: x = scale sin(A z + b) + off_manifold N(0, I), z ~ N(0, I)."""

    kind: Literal["lowdim_manifold"]
    latent_dim: int = bounded(2, least=1)
    scale: float = bounded(1.0, above=0)
    off_manifold: float = bounded(0.01, least=0)


@dataclass(frozen=True)
class HeavyTail:
    """x ~ scale times Student's t with df degrees of freedom, independent coordinates."""

    kind: Literal["heavy_tail"]
    df: float = bounded(3.0, above=0)
    scale: float = bounded(1.0, above=0)


@dataclass(frozen=True)
class Uniform:
    """x ~ U[low, high], independent coordinates."""

    kind: Literal["uniform"]
    low: float = -1.0
    high: float = 1.0


InputConfig = GaussIso | GaussAniso | Mixture | LowdimManifold | HeavyTail | Uniform
INPUTS: dict[str, type] = {
    "gauss_iso": GaussIso,
    "gauss_aniso": GaussAniso,
    "mixture": Mixture,
    "lowdim_manifold": LowdimManifold,
    "heavy_tail": HeavyTail,
    "uniform": Uniform,
}


@dataclass(frozen=True)
class GaussNoise:
    """y = f + scale N(0, 1)."""

    kind: Literal["gauss"]
    scale: float = bounded(0.1, above=0, do="`kind: none` is no noise.")


@dataclass(frozen=True)
class HeteroNoise:
    """y = f + scale (1 + slope |x|/sqrt(dim x)) N(0, 1)."""

    kind: Literal["hetero"]
    scale: float = bounded(0.1, above=0)
    slope: float = bounded(1.0, least=0)


@dataclass(frozen=True)
class StudentTNoise:
    """y = f + scale t_df."""

    kind: Literal["student_t"]
    scale: float = bounded(0.1, above=0)
    df: float = bounded(4.0, above=0)


@dataclass(frozen=True)
class OutlierNoise:
    """y = f + scale N(0, 1), with `factor` times the scale in a `fraction` of the rows."""

    kind: Literal["outliers"]
    scale: float = bounded(0.1, above=0)
    fraction: float = bounded(0.05, least=0, below=1)
    factor: float = bounded(10.0, above=0)


@dataclass(frozen=True)
class NoNoise:
    """y = f."""

    kind: Literal["none"]


NoiseConfig = GaussNoise | HeteroNoise | StudentTNoise | OutlierNoise | NoNoise
NOISES: dict[str, type] = {
    "gauss": GaussNoise,
    "hetero": HeteroNoise,
    "student_t": StudentTNoise,
    "outliers": OutlierNoise,
    "none": NoNoise,
}
