"""The registry of model families: the settings of each, and what else acts on it.

A family is one class here, its line in `FAMILIES`, a preset in `conf/model/` (unless it has no
defaults), and the module
`lambda_hat.problems.families.<name>` with its numbers, which is imported where they are needed:
these classes import no JAX, so that the command checks a user's settings before any worker starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from lambda_hat.conf.checks import ConfigError, bounded, place
from lambda_hat.conf.networks import Activation, num_network_params, resolve_widths
from lambda_hat.conf.own_files import content_of, find_source, nested


@dataclass(frozen=True)
class Acts:
    """Which groups and keys a family listens to; all others are refused."""

    data: tuple[str, ...] = ("n",)
    """Keys of `data`; with `file`, what is in the file takes the place of all others."""
    teacher: bool = False
    training: bool = False
    losses: tuple[str, ...] = ()
    """Values of `posterior.loss`; none where the family is its own loss."""


_ROWS = ("n", "input", "noise")
_OWN_ROWS = (*_ROWS, "file")
_GAUSSIAN = ("mse", "gaussian_nll")
_EMPTY = "`{}` must have one number or more, but is empty ({})."


@dataclass(frozen=True)
class ModelConfig:
    """What the settings of any family say: here, of a loss without data, its minimum known."""

    family: str

    @property
    def title(self) -> str:
        """The family, with the setting (if any) that decides what else acts."""
        return self.family

    @property
    def acts(self) -> Acts:
        """Which groups and keys act."""
        return Acts()

    @property
    def default_gamma(self) -> float | str:
        """`posterior.gamma` where none is given; 1 where the exact answer is known, else `auto`."""
        return 1.0

    @property
    def sizes(self) -> tuple[int, ...]:
        """Inputs, hidden widths and outputs of a network; empty for other families."""
        return ()

    @property
    def has_layers_to_draw(self) -> bool:
        """Whether Gibbs sampling can draw it layer by layer."""
        return False

    def resolved(self, over: Mapping, where: str, faults: list[str]) -> ModelConfig:
        """These settings with what was left to be inferred; `over` is what the user set."""
        return self

    def conflicts(self, where: str) -> list[str]:
        """A sentence for each rule between settings that does not hold."""
        return []


class NetworkConfig(ModelConfig):
    """A family whose parameters are those of a fully connected network."""

    activation: Activation
    bias: bool

    @property
    def num_params(self) -> int:
        """Number of parameters."""
        return num_network_params(self.sizes, bias=self.bias)


@dataclass(frozen=True)
class MLPConfig(NetworkConfig):
    """A fully connected network."""

    in_dim: int = bounded(least=1)
    out_dim: int = bounded(1, least=1)
    depth: int | None = bounded(None, least=1)
    """Hidden layers; None once composed, since `widths` say it."""
    widths: tuple[int, ...] | None = bounded(None, least=1)
    """Width of each hidden layer; null infers equal widths from `target_params`."""
    target_params: int | None = bounded(None, least=1)
    """Number of parameters to come near; null once composed."""
    activation: Activation = "relu"
    bias: bool = True

    @property
    def acts(self) -> Acts:
        return Acts(_OWN_ROWS, teacher=True, training=True, losses=(*_GAUSSIAN, "student_t_nll"))

    @property
    def default_gamma(self) -> str:
        return "auto"

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.in_dim, *(self.widths or ()), self.out_dim)

    def resolved(self, over: Mapping, where: str, faults: list[str]) -> Self:
        return resolve_widths(self, (self.in_dim, self.out_dim), over, where, faults)

    def conflicts(self, where: str) -> list[str]:
        rule = f"`widths` must not be empty ({where}). `model: linear` has no hidden layer."
        return [] if self.widths else [rule]


@dataclass(frozen=True)
class LinearConfig(NetworkConfig):
    """Linear regression with one output."""

    in_dim: int = bounded(least=1)
    bias: bool = True
    activation = "identity"

    @property
    def acts(self) -> Acts:
        return Acts(_OWN_ROWS, teacher=True, losses=_GAUSSIAN)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.in_dim, 1)


@dataclass(frozen=True)
class QuadraticConfig(ModelConfig):
    """L = 1/2 sum_i h_i w_i^2."""

    curvature: tuple[float, ...] = bounded(least=0, do="A minimum curves upwards.")

    def conflicts(self, where: str) -> list[str]:
        return [] if self.curvature else [_EMPTY.format("curvature", where)]


@dataclass(frozen=True)
class NormalCrossingConfig(ModelConfig):
    """L = prod_i w_i^(2 k_i)."""

    powers: tuple[int, ...] = bounded(least=1, do="Leave out directions with no power.")

    def conflicts(self, where: str) -> list[str]:
        return [] if self.powers else [_EMPTY.format("powers", where)]


@dataclass(frozen=True)
class DeepLinearConfig(NetworkConfig):
    """A network of linear layers W_L .. W_1 and a true product W* of a given rank."""

    widths: tuple[int, ...] = bounded(least=1)
    """H_1 (inputs), .., H_{L+1} (outputs)."""
    rank: int = bounded(least=0)
    population: bool = False
    """True is L = 1/2 |W_L .. W_1 - W*|^2, without data."""
    activation, bias = "identity", False

    @property
    def title(self) -> str:
        return self.family + (" with population: true" if self.population else "")

    @property
    def acts(self) -> Acts:
        return Acts() if self.population else Acts(_ROWS, losses=_GAUSSIAN)

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.widths

    @property
    def has_layers_to_draw(self) -> bool:
        return len(self.widths) > 2

    def conflicts(self, where: str) -> list[str]:
        widths, rank = list(self.widths), self.rank
        if len(widths) < 2:
            return [f"`widths` must have inputs and outputs, but got {widths} ({where})."]
        least = f"`rank <= {min(widths)}` must hold, the smallest of `widths`"
        return [f"{least}, but got rank={rank} ({where})."] if rank > min(widths) else []


@dataclass(frozen=True)
class ExternalConfig(ModelConfig):
    """A loss, parameters and data of your own: w* is the given point."""

    loss: str
    """`module:function`, called as `loss(params, batch)`, one number a row."""
    params: str = place()
    """Arrays by path (.npz, .safetensors): `layer1/w` is `params["layer1"]["w"]`."""
    path: str = place(".")
    """The folder that `loss`, `params` and `data.file` are looked for in; the config's own."""
    polish: bool = False
    """Whether w* descends from the given point to the minimum nearby."""
    pickled: str | None = place(None)
    """SHA-256 of the file that `lambda_hat.problem` wrote a function of no module to; `loss` is
    then `name@content`."""

    @property
    def acts(self) -> Acts:
        return Acts(("file",))

    @property
    def default_gamma(self) -> str:
        return "auto"

    def resolved(self, over: Mapping, where: str, faults: list[str]) -> ModelConfig:
        try:
            given = content_of(Path(self.path, self.params), "params", where)
            if self.pickled is None:
                _, source = find_source(self.loss, Path(self.path), where)
                nested(dict(given.shapes), self.params, where)
            else:
                source = self.loss.partition("@")[2]
            if set(given.kinds) != {"f"}:
                name = given.shapes[[kind == "f" for kind in given.kinds].index(False)][0]
                got = f"{name!r} of {self.params} holds whole numbers"
                raise ConfigError([f"Parameters must be floating-point, but {got} ({where})."])
        except ConfigError as error:
            faults += error.faults
            return self
        return ExternalModel(**asdict(self), source=source, weights=given.digest)


@dataclass(frozen=True)
class ExternalModel(ExternalConfig):
    """The same with what is in its files."""

    source: str = ""
    """SHA-256 of the module that `loss` is in, or of the function's own content."""
    weights: str = ""
    """SHA-256 of the parameters."""


FAMILIES: dict[str, type[ModelConfig]] = {
    "mlp": MLPConfig,
    "linear": LinearConfig,
    "quadratic": QuadraticConfig,
    "normal_crossing": NormalCrossingConfig,
    "deep_linear": DeepLinearConfig,
    "external": ExternalConfig,
}
"""Family -> its settings. `lambda_hat.problems.families` has the module of the same name."""
