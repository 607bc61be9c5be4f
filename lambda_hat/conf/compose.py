"""Composition of a problem: what a user wrote, laid over the presets it names and checked whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lambda_hat.conf.checks import (
    ConfigError,
    check_keys,
    check_mapping,
    read,
    unknown_name,
)
from lambda_hat.conf.families import FAMILIES, ModelConfig
from lambda_hat.conf.kinds import idle, read_kind
from lambda_hat.conf.networks import resolve_widths
from lambda_hat.conf.presets import preset_names, problem_presets
from lambda_hat.conf.read_data import read_data
from lambda_hat.conf.resolve import check_problem, settle_gamma, settle_posterior
from lambda_hat.conf.samplers import SAMPLERS, ReferenceConfig, SamplerConfig
from lambda_hat.conf.schema import (
    TEACHERS,
    FileData,
    MLPTeacher,
    PosteriorConfig,
    ProblemConfig,
    TrainingConfig,
)

DEFAULT_PRESETS = {
    "model": "small",
    "data": "small",
    "teacher": "_null",
    "training": "default",
    "posterior": "default",
}


def compose_problem(spec: Mapping, *, where: str = "problem") -> ProblemConfig:
    """Composes and checks one problem of a config.

    Args:
        spec: `{model, data, teacher, training, posterior, seed, overrides}`, each optional;
            the first five name presets, `overrides` is a nested mapping on them. A mapping in
            place of a preset's name is laid over the default preset.
        where: The place of `spec` in the user's file, for messages.

    Raises:
        ConfigError: With every fault of this problem.
    """
    faults: list[str] = []
    spec = check_mapping(spec, where, faults)
    check_keys(spec, [*DEFAULT_PRESETS, "seed", "overrides"], where, faults)
    spec = _spelled_out(spec, where, faults)
    names = {group: spec.get(group, default) for group, default in DEFAULT_PRESETS.items()}
    for group, name in names.items():
        if name not in (known := preset_names(group)):
            faults.append(unknown_name(f"`{group}`", name, known, where))
    over = _overrides(spec.get("overrides"), where, faults)
    if faults:
        raise ConfigError(faults)
    config = _build(names, problem_presets(names), over, spec.get("seed", 0), where, faults)
    if faults or config is None:
        raise ConfigError(faults)
    return config


def compose_sampler(
    method: str, overrides: Mapping | None = None, *, where: str = "sampler"
) -> SamplerConfig:
    """The settings of a sampler: its defaults with a user's (or a trial's) values laid over.

    Raises:
        ConfigError: With every fault of these settings.
    """
    if not isinstance(method, str) or method not in SAMPLERS:
        raise ConfigError([unknown_name("`method`", method, SAMPLERS, where)])
    faults: list[str] = []
    given = check_mapping(overrides, where, faults)
    config: SamplerConfig | None = read(SAMPLERS[method], given, where, faults)
    faults += config.conflicts(where) if config is not None else []
    if faults or config is None:
        raise ConfigError(faults)
    return config


def compose_reference(
    overrides: Mapping | None = None, *, where: str = "reference"
) -> ReferenceConfig:
    """The settings of the reference: defaults with a user's `reference:` mapping laid over.

    Raises:
        ConfigError: With every fault of these settings.
    """
    faults: list[str] = []
    given = check_mapping(overrides, where, faults)
    config = read(ReferenceConfig, given, where, faults)
    if faults:
        raise ConfigError(faults)
    return config


def check_reference(reference: ReferenceConfig, problem: ProblemConfig, *, where: str) -> None:
    """Whether the reference's method can take this problem.

    Raises:
        ConfigError: It cannot.
    """
    if reference.method == "gibbs" and not problem.model.has_layers_to_draw:
        raise ConfigError(
            [
                "`method: gibbs` must have linear networks with hidden layers (model deep_linear), "
                f"which it draws layer by layer, but got a {problem.model.family} model ({where}). "
                "Choose hmc, smc or both."
            ]
        )


def _spelled_out(spec: Mapping, where: str, faults: list[str]) -> dict[str, Any]:
    """The same with each mapping in place of a preset's name moved to `overrides`."""
    inline = {g: spec[g] for g in DEFAULT_PRESETS if isinstance(spec.get(g), Mapping)}
    over = spec.get("overrides")
    if not inline or not isinstance(over or {}, Mapping):
        return dict(spec)
    over = dict(over or {})
    faults += [
        f"`{group}` must be a mapping or have overrides, but is both ({where}). Move one there."
        for group in inline
        if group in over
    ]
    rest = {key: value for key, value in spec.items() if key not in inline}
    return {**rest, "overrides": over | inline}


def _overrides(raw: object, where: str, faults: list[str]) -> dict[str, Mapping]:
    """The `overrides` mapping, one mapping a group."""
    where = f"{where}.overrides"
    groups = check_mapping(raw, where, faults)
    check_keys(groups, DEFAULT_PRESETS, where, faults)
    return {g: check_mapping(groups.get(g), f"{where}.{g}", faults) for g in DEFAULT_PRESETS}


def _build(
    names: dict, presets: dict, over: dict, seed: object, where: str, faults: list[str]
) -> ProblemConfig | None:
    place = {group: f"{where}.overrides.{group}" for group in DEFAULT_PRESETS}
    layers = {group: (presets.get(group) or {}, over[group]) for group in DEFAULT_PRESETS}
    model = read_kind(FAMILIES, "family", *layers["model"], place["model"], faults)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        faults.append(f"`seed` must be a whole number >= 0, but got seed={seed!r} ({where}).")
    if model is None:
        return None
    model = model.resolved(over["model"], place["model"], faults)
    data = read_data(*layers["data"], place["data"], model, faults)
    taught = model.acts.teacher and not isinstance(data, FileData)
    teacher = _read_teacher(names, layers["teacher"], place["teacher"], model, taught, faults)
    training = _read_training(names, layers["training"], place["training"], model, faults)
    posterior = _read_posterior(*layers["posterior"], place["posterior"], model, faults)
    if posterior is not None and data is not None:
        posterior = settle_gamma(posterior, data.n)
    if faults or data is None or posterior is None:
        return None
    if training is not None and (training.batch_size or 0) >= data.n:
        training = replace(training, batch_size=None)
    config = ProblemConfig(model, data, teacher, training, posterior, int(seed))  # type: ignore
    check_problem(config, where, faults)
    return config


def _read_teacher(
    names: dict, layers: tuple, where: str, model: Any, taught: bool, faults: list[str]
) -> MLPTeacher | None:
    preset, over = layers
    if not taught:
        _refuse_group("teacher", names, over, where, model, faults)
        return None
    teacher = read_kind(TEACHERS, "kind", preset, over, where, faults)
    if isinstance(teacher, MLPTeacher):
        ends = (model.sizes[0], model.sizes[-1])
        return resolve_widths(teacher, ends, over, where, faults)
    return MLPTeacher("mlp", None, model.sizes[1:-1], None, model.activation, model.bias)


def _read_training(
    names: dict, layers: tuple, where: str, model: Any, faults: list[str]
) -> TrainingConfig | None:
    preset, over = layers
    if not model.acts.training:
        _refuse_group("training", names, over, where, model, faults)
        return None
    training = read(TrainingConfig, {**preset, **over}, where, faults)
    if training is None or training.restarts is not None:
        return training
    d = model.num_params
    return replace(training, restarts=32 if d <= 200 else 8 if d <= 2000 else 2)


def _read_posterior(
    preset: Mapping, over: Mapping, where: str, model: ModelConfig, faults: list[str]
) -> PosteriorConfig | None:
    given = {**preset, **over}
    if given.get("gamma") is None:
        given["gamma"] = model.default_gamma
    if not model.acts.losses:
        names = ("loss", "noise_scale", "df")
        faults += [idle(f"`{key}`", model, where) for key in names if key in over]
        kept = {key: value for key, value in given.items() if key not in names}
        return read(PosteriorConfig, kept, where, faults)
    posterior = read(PosteriorConfig, given, where, faults)
    if posterior is None:
        return None
    return settle_posterior(posterior, over, model, where, faults)


def _refuse_group(
    group: str, names: dict, over: Mapping, where: str, model: Any, faults: list[str]
) -> None:
    if over:
        faults.append(idle(", ".join(f"`{key}`" for key in over), model, where))
    elif names[group] != DEFAULT_PRESETS[group]:
        preset = f"`{group}: {names[group]}`"
        faults.append(idle(preset, model, where.replace(".overrides", "")))
