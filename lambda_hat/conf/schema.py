"""What a problem is made of, as frozen dataclasses, and the id that follows from it.

Every field acts. A field that is None does not act in this problem (the noise of a quadratic)
and is no part of its identity `pid`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lambda_hat.conf.checks import ConfigError, bounded, place
from lambda_hat.conf.distributions import InputConfig, NoiseConfig
from lambda_hat.conf.networks import Activation
from lambda_hat.store import content_id

__all__ = ["SCHEMA", "ConfigError", "ProblemConfig"]

SCHEMA = 2
"""Part of every pid; raised when the same configuration comes to mean another problem."""


@dataclass(frozen=True)
class DataConfig:
    """How many data, and how inputs and label noise are drawn; or the file they are in."""

    n: int = bounded(least=3, do="beta = beta0 / log n needs log n > 1.")
    input: InputConfig | None = None
    noise: NoiseConfig | None = None
    file: str | None = place(None)
    """Data of your own in place of drawn ones: arrays, rows first (.npz, .safetensors), or columns
    (.parquet, .csv). A family that draws data has `x` and `y` in it, and no teacher."""
    label: str | None = place(None)
    """The column of a table that is `y`; the others are `x`. Null: each column is an array."""
    path: str | None = place(None)
    """The folder of `file`; null is that of an external model, and else the config's own."""


@dataclass(frozen=True)
class FileData(DataConfig):
    """The same with what is in its file."""

    rows: str = ""
    """SHA-256 of the data."""

    @property
    def source(self) -> Path:
        """The file."""
        return Path(self.path or ".", str(self.file))


@dataclass(frozen=True)
class StudentTeacher:
    """A teacher of the student's own architecture."""

    kind: Literal["student"]


@dataclass(frozen=True)
class MLPTeacher:
    """A network of its own architecture; inputs and outputs are the student's."""

    kind: Literal["mlp"]
    depth: int | None = bounded(None, least=0)
    widths: tuple[int, ...] | None = bounded(None, least=1)
    target_params: int | None = bounded(None, least=1)
    activation: Activation = "relu"
    bias: bool = True


TEACHERS: dict[str, type] = {"student": StudentTeacher, "mlp": MLPTeacher}


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained to a minimum with evidence."""

    steps: int = bounded(3000, least=0)
    """Adam steps of each restart, the learning rate decaying to zero."""
    learning_rate: float = bounded(0.01, above=0)
    batch_size: int | None = bounded(512, least=1)
    """Rows of a step; None is the full batch."""
    restarts: int | None = bounded(None, least=1)
    """Initial points, the best of which is kept; null asks for a number by size."""
    polish_steps: int = bounded(500, least=0)
    """Most quasi-Newton steps on the full data in float64."""
    shakes: int = bounded(8, least=0)
    """Most rounds of looking for a lower minimum nearby; a round that finds none is the last."""
    shift_bias_tol: float = bounded(0.005, above=0)
    """Predicted shift bias, relative to the LLC, above which w* is refused."""


@dataclass(frozen=True)
class PosteriorConfig:
    """The estimand's temperature, tether and loss."""

    loss: Literal["mse", "gaussian_nll", "student_t_nll"] | None = None
    """None where the family is its own loss."""
    beta0: float = bounded(1.0, above=0, do="beta = beta0 / log n.")
    gamma: float = bounded(None, above=0, word="auto", do="The tether makes the posterior proper.")
    """The tether; `auto` is 0.05 nbeta, null the family's own default; a number once composed."""
    noise_scale: float | None = bounded(None, above=0)
    """Scale of the likelihood (`gaussian_nll`, `student_t_nll`); 0.1 unless given."""
    df: float | None = bounded(None, above=0)
    """Degrees of freedom of `student_t_nll`; 4 unless given."""


@dataclass(frozen=True)
class ProblemConfig:
    """One problem, whole: everything that defines w*, the data and the estimand."""

    model: Any
    """One of the classes of `FAMILIES`."""
    data: DataConfig
    teacher: MLPTeacher | None
    training: TrainingConfig | None
    posterior: PosteriorConfig
    seed: int

    @property
    def beta(self) -> float:
        """Inverse temperature beta0 / log n."""
        return self.posterior.beta0 / math.log(self.data.n)

    @property
    def nbeta(self) -> float:
        """n * beta."""
        return self.data.n * self.beta

    def canonical(self) -> dict:
        """The problem as JSON types: only what acts, so that equal problems are equal text."""
        return {"schema": SCHEMA, **_plain(self)}

    @property
    def pid(self) -> str:
        """`p_` and 12 hex digits of the canonical form's SHA-256."""
        return content_id("p", self.canonical())


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        kept = (f.name for f in dataclasses.fields(value) if not f.metadata.get("place"))
        items = ((name, getattr(value, name)) for name in kept)
        return {name: _plain(item) for name, item in items if item is not None}
    return list(value) if isinstance(value, tuple) else value
