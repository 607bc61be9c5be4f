"""What every model family gives, whichever are registered; a new one cannot escape this."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any

import external_example
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lambda_hat.conf import compose_problem
from lambda_hat.conf.families import FAMILIES
from lambda_hat.conf.presets import preset_names
from lambda_hat.problems import Problem, build_problem, llc_exact, load_or_build, rlct
from lambda_hat.problems.curvature import measure_curvature
from lambda_hat.problems.evidence import gather_evidence
from lambda_hat.problems.families import Family, load_family, make_form
from lambda_hat.problems.forms import ProblemForm
from lambda_hat.problems.training import train

EXAMPLES = {"external": external_example.spec}
"""Makes a spec of a family that has no preset, since its settings name a user's own files."""
MODELS = {name: compose_problem({"model": name}).model for name in preset_names("model")}
QUICK = {"steps": 300, "restarts": 4, "polish_steps": 200, "shakes": 1}
GAMMA = 10.0

each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def compose(family: str, **overrides: Any) -> Any:
    """The smallest preset of a family, with a tether that its posterior is near to."""
    if family in EXAMPLES:
        spec = EXAMPLES[family]()
        return compose_problem(
            spec | {"overrides": {"posterior": {"gamma": GAMMA}} | spec["overrides"] | overrides}
        )
    presets = [name for name, model in MODELS.items() if model.family == family]
    preset = min(presets, key=lambda name: getattr(MODELS[name], "num_params", 0))
    overrides = {"posterior": {"gamma": GAMMA}, "data": {"n": 30}} | overrides
    if MODELS[preset].acts.training:
        overrides["training"] = QUICK
    return compose_problem({"model": preset, "overrides": overrides})


@functools.cache
def build(family: str) -> Problem:
    with jax.enable_x64(True):
        return build_problem(compose(family))


def near(problem: Problem, num: int, *, width: float = 0.3) -> np.ndarray:
    draws = np.random.default_rng(0).standard_normal((num, len(problem.w_star)))
    return problem.w_star + width * draws


def mean_losses(problem: Problem, points: np.ndarray) -> np.ndarray:
    loss = lambda w: jnp.mean(problem.form.losses(w, problem.data))  # noqa: E731
    return np.asarray(jax.jit(lambda points: jax.lax.map(loss, points, batch_size=1000))(points))


@each_family
def test_a_family_has_a_preset_and_settings_of_that_name(family):
    assert (family in EXAMPLES) != (family in {model.family for model in MODELS.values()})
    assert isinstance(compose(family).model, FAMILIES[family])
    assert all(isinstance(m, FAMILIES[family]) for m in MODELS.values() if m.family == family)


@each_family
def test_its_module_gives_what_every_module_gives_in_that_order(family):
    module = load_family(compose(family))
    assert isinstance(module, Family)
    names = [name for name in vars(Family) if not name.startswith("_")]
    lines = [inspect.getsourcelines(getattr(module, name))[1] for name in names]
    assert lines == sorted(lines)
    assert all(getattr(module, name).__module__ == module.__name__ for name in names)


@each_family
def test_its_form_is_a_value_and_its_losses_are_of_rows(family):
    problem = build(family)
    form, again = problem.form, make_form(problem.config)
    assert isinstance(form, ProblemForm)
    assert form == again and hash(form) == hash(again)
    losses = np.asarray(form.losses(jnp.asarray(problem.w_star + 0.1), problem.data))
    rows = problem.config.data.n if form.has_rows else 1
    assert losses.shape == (rows,) and losses.dtype == np.float64 and np.isfinite(losses).all()
    assert {leaf.shape[0] for leaf in problem.data.values()} <= {rows}


@each_family
def test_what_it_knows_of_its_loss_is_the_loss(family):
    problem, points = build(family), near(build(family), 5)
    by_rows = mean_losses(problem, points)
    if (statistics := problem.form.statistics(problem.data)) is not None:
        found = [float(statistics.mean_loss(problem.form, jnp.asarray(w))) for w in points]
        assert found == pytest.approx(by_rows, rel=1e-10)
    product = problem.form.product_loss(problem.data)
    assert product is not None or not problem.config.model.has_layers_to_draw
    if product is not None:
        sizes = np.multiply(product.widths[:-1], product.widths[1:])
        found = []
        for w in points:
            whole = np.eye(product.widths[0])
            for part, out in zip(np.split(w, np.cumsum(sizes)[:-1]), product.widths[1:]):  # noqa: B905
                whole = part.reshape(out, -1) @ whole
            gap = whole - product.fit
            found.append(product.scale * np.sum((gap @ product.gram) * gap))
        assert np.ptp(found - by_rows) == pytest.approx(0, abs=1e-10)


@each_family
def test_its_minimum_is_one_and_says_so(family):
    problem = build(family)
    assert problem.evidence["status"] in ("exact", "ok", "kink")
    for width in (1e-3, 0.03, 1.0):
        below = problem.init_loss - mean_losses(problem, near(problem, 500, width=width)).min()
        assert problem.config.nbeta * below < 1e-3
    evidence = evidence_at_minimum(problem)
    assert evidence["status"] in ("ok", "kink"), evidence["reasons"]
    largest = problem.evidence["largest_curvature"]
    assert largest == pytest.approx(evidence["largest_curvature"], rel=0.01, abs=1e-9)


def evidence_at_minimum(problem: Problem) -> dict[str, Any]:
    """As training would gather it, whether or not the family trains."""
    w, rng = jnp.asarray(problem.w_star), np.random.default_rng(0)
    given = {"nbeta": problem.config.nbeta, "gamma": problem.config.posterior.gamma, "rng": rng}
    curvature = measure_curvature(problem.form, problem.data, w, **given)
    tol = {"shift_bias_tol": 0.005}
    return gather_evidence(problem.form, problem.data, w, curvature, rng, **tol)


@each_family
def test_it_is_built_the_same_every_time_and_read_back_as_it_was(family, tmp_path):
    first = build(family)
    for again in (load_or_build(first.config, tmp_path), load_or_build(first.config, tmp_path)):
        assert again.target_id == first.target_id
        assert (again.init_loss, again.evidence) == (first.init_loss, first.evidence)
        assert llc_exact(again) == llc_exact(first)


@each_family
def test_its_exact_answer_is_what_draws_of_the_tether_say(family):
    problem = build(family)
    answer = llc_exact(problem)
    if answer is None:
        pytest.skip("No exact answer is known.")
    points = near(problem, 400_000, width=GAMMA**-0.5)
    excess = problem.config.nbeta * (mean_losses(problem, points) - problem.init_loss)
    weights = np.exp(-excess)
    found = np.average(excess, weights=weights)
    se = np.sqrt(np.sum((weights * (excess - found)) ** 2)) / weights.sum()
    assert se < 0.02 * answer
    assert abs(found - answer) < 3.5 * se


@each_family
def test_its_tether_is_fixed_where_its_answer_is_known_and_follows_nbeta_elsewhere(family):
    exact = llc_exact(build(family)) is not None
    config = compose(family, posterior={"gamma": None})
    assert config.model.default_gamma == (1.0 if exact else "auto")
    assert config.posterior.gamma == pytest.approx(1.0 if exact else 0.05 * config.nbeta)


@each_family
def test_its_limit_is_that_of_a_minimum(family):
    problem = build(family)
    if (limit := rlct(problem.config)) is not None:
        value, multiplicity = limit
        assert 0 <= value <= len(problem.w_star) / 2
        assert isinstance(multiplicity, int) and multiplicity >= 1


@dataclasses.dataclass(frozen=True)
class Logistic(ProblemForm):
    """A loss that no family has: labels 0 or 1, log-odds x . w."""

    @property
    def has_rows(self) -> bool:
        return True

    def losses(self, w: Any, data: Any) -> Any:
        return jnp.logaddexp(0.0, (1 - 2 * data["label"]) * (data["point"] @ w))


@pytest.mark.parametrize("batch_size", [None, 20])
def test_any_loss_is_trained(batch_size):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3))
    labels = (rng.random(200) < 1 / (1 + np.exp(-x @ [1.0, -2.0, 0.5]))).astype(float)
    training = QUICK | {"batch_size": batch_size}
    config = compose_problem({"overrides": {"data": {"n": 200}, "training": training}})
    data = {"point": x, "label": labels}
    draw = lambda rng: rng.standard_normal(3)  # noqa: E731
    w, evidence = train(config, Logistic(), data, draw=draw, start=None)
    assert evidence["status"] == "ok" and not evidence["started_at_teacher"]
    score = x.T @ (1 / (1 + np.exp(-x @ w)) - labels) / 200
    assert np.abs(score).max() < 1e-8
