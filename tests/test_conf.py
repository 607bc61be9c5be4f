"""YAML -> Config: what composes, what is one problem, and what is refused with which sentence."""

import dataclasses
import subprocess
import sys

import external_example
import pytest

from lambda_hat.conf import ConfigError, compose_problem, compose_reference, compose_sampler
from lambda_hat.conf.distributions import INPUTS, NOISES
from lambda_hat.conf.families import FAMILIES, MLPConfig
from lambda_hat.conf.presets import preset_names
from lambda_hat.conf.samplers import SAMPLERS, ReferenceConfig
from lambda_hat.conf.schema import (
    TEACHERS,
    DataConfig,
    PosteriorConfig,
    TrainingConfig,
)


def problem(model="small", *, overrides=None, **names):
    return compose_problem({"model": model, "overrides": overrides or {}, **names})


def faults(spec, *, where="problems[0]"):
    with pytest.raises(ConfigError) as caught:
        compose_problem(spec, where=where)
    assert str(caught.value) == "\n".join(caught.value.faults)
    return caught.value.faults


@pytest.mark.parametrize(
    ("group", "name"),
    [(g, n) for g in ("data", "model", "posterior", "training") for n in preset_names(g)]
    + [("teacher", name) for name in preset_names("teacher")],
)
def test_every_preset_composes(group, name):
    assert compose_problem({group: name}).pid.startswith("p_")


def test_model_presets_have_about_the_parameters_they_say():
    sizes = {name: compose_problem({"model": name}).model for name in ("small", "medium", "base")}
    assert {name: (m.in_dim, m.widths, m.num_params) for name, m in sizes.items()} == {
        "small": (4, (4, 4), 45),
        "medium": (16, (23, 23), 967),
        "base": (32, (62, 62, 62), 9921),
    }


def test_the_temperature_is_that_of_the_contract():
    config = problem(overrides={"posterior": {"beta0": 2.0}})
    assert config.beta == pytest.approx(2 / 4.605170185988092)
    assert config.nbeta == pytest.approx(200 / 4.605170185988092)


@pytest.mark.parametrize(
    "same",
    [
        {"seed": 0, "overrides": {}},
        {"model": "small", "data": "small", "teacher": "_null"},
        {"overrides": {"data": {"n": 100.0}}},
        {"overrides": {"posterior": {"gamma": "auto", "beta0": "1e0"}}},
        {"overrides": {"posterior": {"gamma": None}}},
        {"overrides": {"posterior": {"gamma": 1.085736205}}},
        {"overrides": {"model": {"widths": [4, 4]}}},
        {"overrides": {"model": {"target_params": 47}}},
        {"overrides": {"data": {"noise": {"kind": "gauss", "scale": 0.1}}}},
        {"overrides": {"training": {"batch_size": None, "restarts": 32}}},
        {"overrides": {"training": {"batch_size": 100}}},
        {"teacher": "small"},
        {"overrides": None},
    ],
)
def test_one_problem_spelled_differently_has_one_pid(same):
    assert compose_problem(same) == compose_problem({})
    assert compose_problem(same).pid == compose_problem({}).pid


def test_only_content_counts_for_a_family_without_data():
    small = problem("quadratic")
    large = problem("quadratic", data="base", overrides={"data": {"n": 100}})
    assert small.pid == large.pid
    assert small.canonical() == {
        "schema": 2,
        "model": {"family": "quadratic", "curvature": [1.0, 4.0, 0.1]},
        "data": {"n": 100},
        "posterior": {"beta0": 1.0, "gamma": 1.0},
        "seed": 0,
    }


@pytest.mark.parametrize(("data", "gamma"), [("small", 1.09), ("base", 101.0)])
def test_the_tether_of_a_network_is_a_twentieth_of_nbeta(data, gamma):
    config = problem(data=data)
    assert config.posterior.gamma == pytest.approx(0.05 * config.nbeta, rel=1e-9)
    assert config.posterior.gamma == pytest.approx(gamma, rel=4e-3)
    assert config.canonical()["posterior"]["gamma"] == config.posterior.gamma


@pytest.mark.parametrize("family", sorted(set(preset_names("model")) & set(FAMILIES)))
def test_a_number_or_auto_wins_over_the_tether_of_a_family(family):
    assert problem(family).posterior.gamma == 1.0
    for beta0 in (1.0, 0.5):
        auto = problem(family, overrides={"posterior": {"gamma": "auto", "beta0": beta0}})
        assert auto.posterior.gamma == pytest.approx(0.05 * auto.nbeta, rel=1e-9)
    assert problem(family, overrides={"posterior": {"gamma": 3}}).posterior.gamma == 3.0


def test_the_tether_follows_temperature_and_number_of_data():
    half = problem(overrides={"posterior": {"beta0": 0.5}, "data": {"n": 1000}})
    assert half.posterior.gamma == pytest.approx(0.05 * 0.5 * 1000 / 6.907755279, rel=1e-9)
    assert problem(overrides={"posterior": {"gamma": 2}}).posterior.gamma == 2.0


# One change for each key of each class that makes a problem.
CHANGES = {
    MLPConfig: {
        "in_dim": 3,
        "out_dim": 2,
        "depth": 3,
        "widths": [3, 5],
        "target_params": 90,
        "activation": "tanh",
        "bias": False,
    },
    FAMILIES["linear"]: {"in_dim": 3, "bias": False},
    FAMILIES["quadratic"]: {"curvature": [2.0]},
    FAMILIES["normal_crossing"]: {"powers": [2, 1]},
    FAMILIES["deep_linear"]: {"widths": [2, 2, 1], "rank": 1, "population": False},
    FAMILIES["external"]: {
        "loss": "own_logistic:half",
        "params": "others.npz",
        "path": str(external_example.OTHER),
        "polish": False,
        "pickled": 64 * "0",
    },
    DataConfig: {"n": 90, "input": {"kind": "uniform"}, "noise": {"kind": "none"}},
    TrainingConfig: {
        "steps": 10,
        "learning_rate": 0.02,
        "batch_size": 50,
        "restarts": 3,
        "polish_steps": 20,
        "shakes": 1,
        "shift_bias_tol": 0.1,
    },
    PosteriorConfig: {"loss": "gaussian_nll", "beta0": 0.5, "gamma": 2.0},
    INPUTS["gauss_iso"]: {"scale": 2.0},
    INPUTS["gauss_aniso"]: {"scale": 2.0, "condition": 5.0},
    INPUTS["mixture"]: {"components": 3, "spread": 1.0, "scale": 1.0},
    INPUTS["lowdim_manifold"]: {"latent_dim": 1, "scale": 2.0, "off_manifold": 0.1},
    INPUTS["heavy_tail"]: {"df": 5.0, "scale": 2.0},
    INPUTS["uniform"]: {"low": -2.0, "high": 2.0},
    NOISES["gauss"]: {"scale": 0.2},
    NOISES["hetero"]: {"scale": 0.2, "slope": 2.0},
    NOISES["student_t"]: {"scale": 0.2, "df": 3.0},
    NOISES["outliers"]: {"scale": 0.2, "fraction": 0.1, "factor": 5.0},
    NOISES["none"]: {},
    TEACHERS["student"]: {},
    TEACHERS["mlp"]: {
        "depth": 1,
        "widths": [3, 3],
        "target_params": 90,
        "activation": "tanh",
        "bias": False,
    },
}
REGISTRIES = {
    "family": (FAMILIES, ("model",)),
    "kind": (INPUTS, ("data", "input")),
    "noise": (NOISES, ("data", "noise")),
    "teacher": (TEACHERS, ("teacher",)),
}


def nested(path, leaf):
    for key in reversed(path):
        leaf = {key: leaf}
    return leaf


def every_change():
    """(class, key, spec without the change, spec with it) for every key of every class."""
    for registry, path in REGISTRIES.values():
        tag = "family" if registry is FAMILIES else "kind"
        for kind, cls in registry.items():
            names = {"teacher": "small"} if cls is TEACHERS["mlp"] else {}
            if kind == "external":
                for key, value in CHANGES[cls].items():
                    yield cls, key, external_example.spec(), external_example.spec(**{key: value})
                continue
            if registry is FAMILIES:
                names, base = {"model": "small" if kind == "mlp" else kind}, {}
            else:
                base = {tag: kind}
            for key, value in CHANGES[cls].items():
                with_change = {**names, "overrides": nested(path, {**base, key: value})}
                yield cls, key, {**names, "overrides": nested(path, base)}, with_change
    example = external_example.spec
    yield DataConfig, "file", example(), example({"file": "more.npz"})
    yield DataConfig, "path", example(), example({"path": str(external_example.WIDE)})
    table = {"file": "table.csv"}
    yield DataConfig, "label", example(table), example({**table, "label": "grade"})
    for cls, group in ((DataConfig, "data"), (TrainingConfig, "training")):
        for key, value in CHANGES[cls].items():
            yield cls, key, {}, {"overrides": {group: {key: value}}}
    for key, value in CHANGES[PosteriorConfig].items():
        yield PosteriorConfig, key, {}, {"overrides": {"posterior": {key: value}}}
    nll = {"posterior": {"loss": "student_t_nll"}}
    for key in ("noise_scale", "df"):
        changed = {"posterior": {"loss": "student_t_nll", key: 2.0}}
        yield PosteriorConfig, key, {"overrides": nll}, {"overrides": changed}


@pytest.mark.parametrize(
    ("cls", "key", "before", "after"),
    [pytest.param(*change, id=f"{change[0].__name__}.{change[1]}") for change in every_change()],
)
def test_every_key_is_part_of_the_problem(cls, key, before, after):
    assert compose_problem(before).pid != compose_problem(after).pid


def test_no_key_is_left_out_of_that_claim():
    covered = {(change[0], change[1]) for change in every_change()}
    classes = [cls for registry, _ in REGISTRIES.values() for cls in registry.values()]
    for cls in [*classes, DataConfig, TrainingConfig, PosteriorConfig]:
        keys = {field.name for field in dataclasses.fields(cls)} - {"family", "kind"}
        assert {key for c, key in covered if c is cls} == keys, cls


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            {"model": "smal"},
            "`model` must be one of base, deep_linear, linear, medium, normal_crossing, "
            "quadratic, small, but got 'smal' (problems[0]). Did you mean 'small'?",
        ),
        (
            {"sed": 1},
            "A key must be one of data, model, overrides, posterior, seed, teacher, training, "
            "but got 'sed' (problems[0]). Did you mean 'seed'?",
        ),
        (
            {"overrides": {"posterior": {"gamma": -1}}},
            "`gamma > 0` must hold, but got gamma=-1.0 (problems[0].overrides.posterior). "
            "The tether makes the posterior proper.",
        ),
        (
            {"overrides": {"data": {"n": 2}}},
            "`n >= 3` must hold, but got n=2 (problems[0].overrides.data). "
            "beta = beta0 / log n needs log n > 1.",
        ),
        (
            {"overrides": {"data": {"n": "many"}}},
            "`n` must be a whole number, but got n='many' (problems[0].overrides.data).",
        ),
        (
            {"overrides": {"model": {"activation": "rely"}}},
            "`activation` must be one of relu, tanh, gelu, identity, but got activation='rely' "
            "(problems[0].overrides.model). Did you mean 'relu'?",
        ),
        (
            {"overrides": {"data": {"noise": {"kind": "gaus"}}}},
            "`kind` must be one of gauss, hetero, none, outliers, student_t, but got 'gaus' "
            "(problems[0].overrides.data.noise). Did you mean 'gauss'?",
        ),
        (
            {"seed": -1},
            "`seed` must be a whole number >= 0, but got seed=-1 (problems[0]).",
        ),
        (
            {"model": "linear", "overrides": {"posterior": {"loss": "student_t_nll"}}},
            "`loss` must be one of mse, gaussian_nll for a linear model, whose exact answer "
            "assumes a Gaussian, but got loss='student_t_nll' (problems[0].overrides.posterior).",
        ),
    ],
)
def test_a_fault_is_one_sentence_with_its_place(spec, sentence):
    assert faults(spec) == [sentence]


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("small", "mapping"),
        ({"overrides": {"modl": {}}}, "modl"),
        ({"overrides": {"model": 3}}, "mapping"),
        ({"overrides": {"model": {"width": 3}}}, "widths"),
        ({"overrides": {"model": {"widths": []}}}, "empty"),
        ({"overrides": {"model": {"widths": [3, 0]}}}, "widths >= 1"),
        ({"overrides": {"model": {"widths": [3], "depth": 2}}}, "depth"),
        ({"overrides": {"model": {"widths": [3], "target_params": 20}}}, "target_params"),
        ({"overrides": {"model": {"target_params": 3}}}, "target_params >= 9"),
        ({"overrides": {"model": {"bias": "yes"}}}, "true or false"),
        ({"overrides": {"data": {"n": 10.5}}}, "whole number"),
        ({"overrides": {"data": {"n": True}}}, "whole number"),
        ({"overrides": {"data": {"noise": {"scale": float("nan")}}}}, "finite"),
        ({"overrides": {"data": {"noise": {"df": 3}}}}, "df"),
        ({"overrides": {"data": {"input": {"kind": "uniform", "low": 3}}}}, "low < high"),
        (
            {"overrides": {"data": {"input": {"kind": "lowdim_manifold", "latent_dim": 9}}}},
            "latent_dim <= 4",
        ),
        ({"overrides": {"posterior": {"noise_scale": 1.0}}}, "noise_scale"),
        ({"overrides": {"posterior": {"gamma": "aut"}}}, "a finite number or auto, but got"),
        ({"overrides": {"posterior": {"loss": "gaussian_nll", "df": 1.0}}}, "df"),
        ({"teacher": "_null", "overrides": {"teacher": {"widths": [3]}}}, "widths"),
        ({"model": "quadratic", "teacher": "small"}, "teacher: small"),
        ({"model": "quadratic", "overrides": {"data": {"noise": {"scale": 1}}}}, "noise"),
        ({"model": "quadratic", "overrides": {"training": {"steps": 1}}}, "steps"),
        ({"model": "quadratic", "overrides": {"posterior": {"loss": "mse"}}}, "loss"),
        ({"model": "quadratic", "overrides": {"model": {"curvature": []}}}, "empty"),
        ({"model": "quadratic", "overrides": {"model": {"curvature": [-1]}}}, "curvature >= 0"),
        ({"model": "normal_crossing", "overrides": {"model": {"powers": [0]}}}, "powers >= 1"),
        ({"model": "deep_linear", "overrides": {"model": {"rank": 2}}}, "rank <= 1"),
        ({"model": "deep_linear", "overrides": {"model": {"widths": [2]}}}, "outputs"),
        ({"model": "deep_linear", "overrides": {"data": {"input": {"scale": 2}}}}, "population"),
        ({"model": "../small"}, "../small"),
        ({"model": ["small"]}, "small"),
    ],
)
def test_what_cannot_act_is_refused(spec, word):
    found = faults(spec)
    assert len(found) == 1 and word in found[0] and "problems[0]" in found[0]


def test_all_faults_of_a_problem_come_in_one_error():
    spec = {
        "overrides": {
            "model": {"in_dim": "a", "activation": "rely"},
            "data": {"n": 2, "noise": {"scale": -1}},
            "posterior": {"gamma": 0},
        },
        "seed": "x",
    }
    assert len(faults(spec)) >= 3
    spec["overrides"]["model"] = {}
    assert len(faults(spec)) == 4


@pytest.mark.parametrize("method", sorted(SAMPLERS))
def test_a_samplers_defaults_keep_its_own_rules(method):
    defaults = SAMPLERS[method]()
    assert compose_sampler(method) == defaults
    assert compose_sampler(method, dataclasses.asdict(defaults)) == defaults


@pytest.mark.parametrize("config", [*SAMPLERS.values(), ReferenceConfig])
def test_every_number_of_a_sampler_and_of_the_reference_has_a_range(config):
    for field in dataclasses.fields(config):
        number = isinstance(field.default, int | float) and not isinstance(field.default, bool)
        assert bool(field.metadata.get("bounds")) == number, field.name


def test_sampler_settings_are_coerced_to_their_type():
    config = compose_sampler("sgld", {"steps": 1000.0, "eta0": 1, "precond_type": "adam"})
    assert (config.steps, config.eta0) == (1000, 1.0)
    assert type(config.steps) is int and type(config.eta0) is float


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("sgd", {}, ["'sgd'", "'sgld'"]),
        ("sgld", {"eta": 1}, ["'eta'", "'eta0'"]),
        (
            "sgld",
            {"eta0": -1.0},
            ["`eta0 > 0` must hold, but got eta0=-1.0 (methods[0]). Give a step size."],
        ),
        ("sgld", {"gamma": 2}, ["`gamma <= 1` must hold", "gamma=2.0"]),
        ("sgld", {"warmup_fraction": 1.0}, ["`warmup_fraction < 1` must hold"]),
        ("hmc", {"steps": 500}, ["`num_warmup < steps` must hold", "num_warmup=1000, steps=500"]),
        (
            "mclmc",
            {"adjusted": False, "target_accept": 0.9},
            ["`target_accept` must stay 0.8", "Plain MCLMC accepts all"],
        ),
        ("vi", {"M": 1.5}, ["whole number"]),
        ("vi", {"whitening_mode": "adm"}, ["'adam'"]),
        ("vi", {"batch_size": "128"}, ["whole number"]),
        ("vi", [1], ["mapping"]),
    ],
)
def test_a_wrong_sampler_setting_is_one_sentence(method, settings, words):
    with pytest.raises(ConfigError) as caught:
        compose_sampler(method, settings, where="methods[0]")
    assert len(caught.value.faults) == 1
    assert all(word in caught.value.faults[0] for word in [*words, "methods[0]"])


def test_all_faults_of_a_sampler_come_in_one_error():
    with pytest.raises(ConfigError) as caught:
        compose_sampler("vi", {"M": 0, "r": -1, "whitening_mode": "adm", "rate": 1})
    assert len(caught.value.faults) == 4


def test_the_reference_is_composed_from_its_defaults():
    assert compose_reference() == ReferenceConfig()
    assert compose_reference({"num_draws": 500}).num_draws == 500
    with pytest.raises(ConfigError, match="num_draws >= 100"):
        compose_reference({"num_draws": 5})
    with pytest.raises(ConfigError, match="must be one of auto, hmc, tempering, smc, both, gibbs"):
        compose_reference({"method": "hcm"})
    with pytest.raises(ConfigError, match="num_chains"):
        compose_reference({"num_chain": 5})


def test_composing_imports_no_jax():
    code = (
        "import sys, lambda_hat.conf as c; c.compose_problem({}); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
