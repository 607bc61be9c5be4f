"""README and docs: links resolve, commands and snippets work, tables say what the code says."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
import yaml

import lambda_hat
from lambda_hat.conf.compose import compose_problem
from lambda_hat.conf.distributions import INPUTS, NOISES
from lambda_hat.conf.families import FAMILIES
from lambda_hat.conf.presets import preset_names
from lambda_hat.conf.resolve import _LOSS_DEFAULTS
from lambda_hat.conf.samplers import SAMPLERS, ReferenceConfig
from lambda_hat.conf.schema import PosteriorConfig, TrainingConfig
from lambda_hat.conf.search_space import SEARCH_SPACE, Categorical, Float, read_search_space
from lambda_hat.entrypoints import command, parsl_llc, parsl_optuna
from lambda_hat.entrypoints.llc_plan import LLCSection, read_llc_plan
from lambda_hat.entrypoints.plans import ConvergenceSection, OptunaSection, read_study_plan
from lambda_hat.references import gates, particle_gates
from lambda_hat.references.result import ReferenceResult
from lambda_hat.store import Store
from lambda_hat.tables.best_file import write_best
from lambda_hat.tables.confirmation import Confirmation
from lambda_hat.tables.trials import COLUMNS, MAPPINGS, trial_row, write_table
from lambda_hat.trial import Reference, TrialResult, TrialSpec
from lambda_hat.tuning.pruners import PRUNERS
from lambda_hat.tuning.search_samplers import KINDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md")), *(ROOT / "plans").glob("*.md")]
MAINS = {"parsl-optuna": parsl_optuna.main, "parsl-llc": parsl_llc.main}
ON_THE_WAY = {"lambda_hat/conf/model/wide.yaml", "lambda_hat/samplers/mala.py"}
"""Files that a reader is told to make."""


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def snippets(language: str) -> list[Any]:
    """Fenced blocks of a language, with where they are."""
    found = []
    for path in PAGES:
        text = path.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S):
            line = text[: match.start()].count("\n") + 2
            found.append(pytest.param(match[1], id=f"{path.name}:{line}"))
    return found


def commands() -> list[Any]:
    """Every command line of ours that is shown."""
    shown = []
    for block in snippets("bash"):
        for line in block.values[0].splitlines():
            if match := re.search(r"uv run (parsl-\w+.*)", line):
                shown.append(pytest.param(match[1], id=f"{block.id} {match[1][:60]}"))
    return shown


def tables(name: str) -> dict[str, list[list[str]]]:
    """The tables of a page by `heading/first column`, as rows of cells without backticks."""
    found: dict[str, list[list[str]]] = {}
    heading, rows = "", []
    for line in page(name).splitlines():
        if line.startswith("#"):
            heading = line.strip("# `")
        if not line.startswith("|"):
            rows = []
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not rows:
            rows = found.setdefault(f"{heading}/{cells[0]}", [])
            rows.append(cells)
        elif not set(line) <= set("|- "):
            rows.append(cells)
    return {place: rows[1:] for place, rows in found.items()}


def column(rows: list[list[str]], index: int = 0) -> list[str]:
    return [row[index].strip("`") for row in rows]


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def shown(value: Any) -> str:
    """A default as a table has it."""
    return "" if value is MISSING else value if isinstance(value, str) else json.dumps(value)


# Links, names and commands.


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{path.name} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.M)
            assert anchor in map(slug, headings), f"{path.name} links to {link}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_that_are_named_exist(path: Path) -> None:
    named = re.findall(
        r"(?<![\w/.])((?:lambda_hat|config|docs|plans|tests|benchmarks)/[\w/.-]+\.\w+)",
        path.read_text(),
    )
    assert not [name for name in named if not (ROOT / name).exists() and name not in ON_THE_WAY]


DRY_RUNS = """
import contextlib, io, json, shlex, sys
from lambda_hat.entrypoints import parsl_llc, parsl_optuna
from lambda_hat.entrypoints.options import PARSERS, VERBS

mains = {"parsl-optuna": parsl_optuna.main, "parsl-llc": parsl_llc.main}
ended = {}
for line in json.load(sys.stdin):
    name, *argv = shlex.split(line)
    said = io.StringIO()
    if argv and argv[0] in VERBS:  # It reads what a run has written: its options are parsed.
        ended[line] = 0, str(PARSERS[VERBS[argv[0]]](argv))
        continue
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        ended[line] = mains[name]([*argv, "--dry-run"]), said.getvalue()
json.dump(ended, sys.stdout)
"""


@pytest.fixture(scope="module")
def dry_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and output of each command as a dry run, in a folder with what a clone has."""
    home = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "config", home / "config")
    for path in ROOT.glob("parsl_config_*.py"):
        shutil.copy(path, home)
    for queue in ("sbatch", "qsub"):  # A cluster's command must be on PATH.
        (home / queue).touch(mode=0o755)
    done = subprocess.run(  # Not in this process, since Parsl forks and others have loaded JAX.
        [sys.executable, "-c", DRY_RUNS],
        cwd=home,
        env={**os.environ, "PATH": f"{home}:{os.environ['PATH']}"},
        input=json.dumps([command.values[0] for command in commands()]),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not (home / "results").exists()
    return json.loads(done.stdout)


@pytest.mark.parametrize("line", commands())
def test_commands_are_accepted(line: str, dry_runs: dict[str, tuple[int, str]]) -> None:
    code, said = dry_runs[line]
    assert code == 0, said


def test_all_options_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    rows = tables("optuna_workflow")["Command line/option"]
    for name, main in MAINS.items():
        with contextlib.suppress(SystemExit):
            main(["--help"])
        has = set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out)) - {"--help"}
        told = {row[0].strip("`") for row in rows if row[1] in ("both", name)}
        assert told == has, name


def test_exit_codes() -> None:
    rows = tables("optuna_workflow")["Command line/exit code"]
    codes = (command.DONE, command.FAILED, command.BAD_INPUT, command.INTERRUPTED)
    assert column(rows) == [str(code) for code in codes]


# Snippets.


@pytest.mark.parametrize("text", snippets("python"))
def test_python_snippets_compile(text: str) -> None:
    ast.parse(text)


@pytest.mark.parametrize("text", snippets("yaml"))
def test_yaml_snippets_are_accepted(text: str, tmp_path: Path) -> None:
    raw = yaml.safe_load(text)
    path = tmp_path / "config.yaml"
    path.write_text(text)
    if "samplers" in raw:
        read_llc_plan(path, [], {})
    elif "methods" in raw:
        read_study_plan(path, [], {})
    elif "problems" in raw:
        for spec in raw["problems"]:
            compose_problem(spec)
    elif "search_space" in raw:
        read_search_space(raw["search_space"])
    else:
        assert raw == yaml.safe_load(text)


def some_rows() -> Iterator[dict[str, Any]]:
    """Rows of a table as a small run leaves them."""
    reference = Reference(5.9, 0.02, "ok")
    for number, (method, llc) in enumerate([("vi", 7.0), ("sgld", 5.8), ("sgld", None)]):
        params = {"vi": {"lr": 0.01, "M": 2}, "sgld": {"eta0": 1e-4, "batch": 64}}[method]
        spec = TrialSpec("p_1", {"model": "small"}, method, params, number, 30.0)
        result = spec.failure("It diverged.", llc_ref=5.9, runtime_sec=1.0)
        if llc is not None:
            found = {"diagnostics": {"rhat": 1.0, "ess": 400.0}, "work": {"full_gradients": 1e4}}
            result = replace(result, error_msg=None, **found).completed(llc, 0.1)
        yield trial_row(
            spec, result, number=number, label="small/small", objective=llc, reference=reference
        )


@pytest.mark.parametrize("text", [s for s in snippets("python") if "read_parquet" in s.values[0]])
def test_pandas_snippets_work(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, store = list(some_rows()), Store.at(tmp_path / "artifacts", tmp_path / "results")
    write_table(store.trials_table, rows)
    write_table(store.llc_table, rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", cast(ModuleType, PrintedCalls()))
    exec(compile(text, "snippet", "exec"), {})
    assert capsys.readouterr().out


class PrintedCalls:
    """Stands in for MLflow, which is large: prints what it is called with."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            print(name, args, kwargs)
            return contextlib.nullcontext()

        return call


@pytest.fixture(scope="module")
def worked_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with the sampler of add_a_sampler.md, and what running it by hand left."""
    home = tmp_path_factory.mktemp("example")
    package = home / "lambda_hat"
    shutil.copytree(ROOT / "lambda_hat", package)
    blocks = re.findall(r"^```python\n(.*?)^```", page("add_a_sampler"), re.M | re.S)
    settings, registry, module, ranges, by_hand = blocks
    with (package / "conf" / "samplers.py").open("a") as file:
        file.write(f"\n\n{settings}\n\n{registry}")
    with (package / "conf" / "search_space.py").open("a") as file:
        file.write(f"\n\n{ranges}")
    (package / "samplers" / "mala.py").write_text(module)
    (home / "by_hand.py").write_text(by_hand + REFERENCE_BY_HAND)
    environment = {**os.environ, "PYTHONPATH": str(home), "NPROC": "1"}
    done = subprocess.run(
        [sys.executable, "by_hand.py"], cwd=home, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return home


REFERENCE_BY_HAND = """
from lambda_hat.runners.hmc_reference import run_hmc_reference
from lambda_hat.conf.search_space import read_search_space

run_hmc_reference(
    {"model": "quadratic", "data": "small"},
    "artifacts/problems/by_hand/ref.json",
    settings={"num_draws": 200, "num_warmup": 100},
)
assert "mala" in read_search_space({"mala": {"steps": {"low": 2000, "high": 4000}}})
"""


def metrics_of(home: Path) -> dict[str, Any]:
    path = home / "artifacts" / "runs" / "by_hand" / "mala" / "first" / "metrics.json"
    return json.loads(path.read_text())


def test_the_sampler_that_is_added_is_right(worked_example: Path) -> None:
    metrics = metrics_of(worked_example)
    assert metrics["status"] == "complete", metrics["error_msg"]
    assert metrics["se_hat"] < 0.03 * 1.3146
    assert abs(metrics["llc_hat"] - 1.3146) < 3 * metrics["se_hat"]


# Tables against the code.


CHANGES = (
    "add a sampler",
    "a setting to a sampler",
    "how a study searches",
    "pruner",
    "add a dataset",
    "model family",
    "gate",
    "figure",
    "cluster",
)
"""What docs/line.md must say where to change."""


def test_what_a_change_takes_is_at_most_three_files() -> None:
    rows = tables("line")["Where do I change it?/to change"]
    for change in CHANGES:
        assert any(change in row[0] for row in rows), f"no row says where to change: {change}"
    for what, places, count in rows:
        files = re.findall(r"`([\w/]+(?:\.py|/))`", places)
        assert len(files) == int(count) <= 3, what
        for file in files:
            assert (ROOT / file).is_dir() if file.endswith("/") else (ROOT / file).is_file(), file


def test_the_line_is_told_in_order() -> None:
    stops = re.findall(r"^    (\S+ -> \S+) +(lambda_hat\.\w+)$", lambda_hat.__doc__ or "", re.M)
    rows = tables("line")["The line/arrow"]
    assert [(row[0], row[1].strip("`")) for row in rows] == stops
    headings = re.findall(r"^## (.* -> .*)$", page("line"), re.M)
    assert headings == [arrow for arrow, _ in stops]


@pytest.mark.parametrize("method", SAMPLERS)
def test_settings_of_a_sampler(method: str) -> None:
    rows = tables("samplers")[f"{method}/setting"]
    told = {row[0].strip("`"): (row[1].strip("`"), row[2]) for row in rows}
    ranges = {name: span(entry) for name, entry in SEARCH_SPACE.get(method, {}).items()}
    assert told == {
        field.name: (shown(field.default), ranges.get(field.name, ""))
        for field in fields(SAMPLERS[method])
    }


def span(entry: Any) -> str:
    if isinstance(entry, Categorical):
        return ", ".join(map(str, entry.choices))
    low, high = (f"{x:g}" if isinstance(entry, Float) else str(x) for x in (entry.low, entry.high))
    return f"{low} to {high}" + (", log" if entry.log else "")


SECTIONS: list[tuple[str, Callable[..., Any]]] = [
    ("optuna/key", OptunaSection),
    ("optuna/key of `convergence`", ConvergenceSection),
    ("reference/key", ReferenceConfig),
]
"""Where the guide tells a section of the config, and the code does."""


@pytest.mark.parametrize(("place", "section"), SECTIONS)
def test_keys_of_a_section(place: str, section: Any) -> None:
    rows = tables("optuna_workflow")[place]
    told = {row[0].strip("`"): row[1].strip("`") for row in rows}
    for key in ("convergence", "enqueue", "sampler_settings"):  # They have tables of their own.
        told.pop(key, None)
    assert told == {field.name: shown(field.default) for field in fields(section)}


def test_samplers_of_optuna() -> None:
    rows = tables("own_search")["What proposes the trials/sampler"]
    assert column(rows) == list(KINDS)
    for row, kind in zip(rows, KINDS.values(), strict=True):
        told = re.findall(r"`(\w+): ([^`]+)`", row[1])
        assert told == [(f.name, shown(f.default)) for f in fields(kind.settings)]
        assert kind.needs is None or f"the package {kind.needs}" in row[2]
        assert kind.many_objectives or "one objective only" in row[2]


def test_pruners() -> None:
    assert column(tables("optuna_workflow")["Pruning/pruner"]) == list(PRUNERS)


@pytest.mark.parametrize(
    ("group", "section", "settled"),
    [
        ("training", TrainingConfig, {}),
        ("posterior", PosteriorConfig, {"loss": "mse", **_LOSS_DEFAULTS}),
    ],
)
def test_keys_of_a_group(group: str, section: Any, settled: dict[str, Any]) -> None:
    rows = tables("optuna_workflow")[f"Problems/{group}"]
    defaults = {field.name: field.default for field in fields(section)} | settled
    told = {row[0].strip("`"): row[1].strip("`") for row in rows}
    assert told == {name: shown(value) for name, value in defaults.items()}


def test_keys_of_a_config() -> None:
    found = tables("optuna_workflow")
    told = column(found["Configuration/key"])
    plan = ["problems", "methods", "optuna", "reference", "search_space", "plugin"]
    assert told == [*plan, "artifacts_dir", "results_dir"]
    llc = {row[0].strip("`"): row[2] for row in found["The config of `parsl-llc/key"]}
    assert set(llc) == {"samplers", "llc"}
    for field in fields(LLCSection):
        assert f"`{field.name}`" in llc["llc"] and f"default {field.default:.0f}" in llc["llc"]


def test_kinds_and_their_keys() -> None:
    found = tables("optuna_workflow")
    for place, registry, tag in (
        ("Problems/family", FAMILIES, "family"),
        ("Problems/input", INPUTS, "kind"),
        ("Problems/noise", NOISES, "kind"),
    ):
        rows = {row[0].strip("`"): row[1] for row in found[place] if len(row) == 2}
        assert set(rows) == set(registry), place
        for kind, section in registry.items():
            own = {field.name for field in fields(section)} - {tag}
            assert own <= set(re.findall(r"`(\w+)`", rows[kind])), kind


def test_presets_are_named() -> None:
    for group, cell in tables("optuna_workflow")["Problems/group"]:
        told = set(re.findall(r"`(\w+)`", cell))
        assert told == set(preset_names(group.strip("`"))), group


def test_gates() -> None:
    rows = tables("optuna_workflow")["Gates/gate"]
    numbers = {"rhat": 1.0, "ess_bulk": 500.0, "divergence_rate": 0.0, "virial_ratio": 1.0}
    numbers |= {"virial_se": 0.1, "below_minimum_fraction": 0.0, "unique_ancestors": 50}
    numbers |= {"acceptance_rate": 0.8, "leftover_correlation": 0.1}
    given: dict[str, Any] = {"llc": 1.0, "se": 0.01, "diagnostics": numbers, "evidence": {}}
    asked = {
        "hmc": [gate.name for gate in gates.check_gates(**given)],
        "smc": [gate.name for gate in particle_gates.check_smc_gates(**given)],
        "gibbs": [gate.name for gate in gates.check_gibbs_gates(**given)],
        "both": [gates.check_agreement(("HMC", "SMC"), (1.0, 0.1), (1.0, 0.1)).name],
    }
    asked["auto"] = [gates.check_elsewhere(1.0, 64).name, *asked["both"]]
    asked["tempering"] = [*asked["hmc"], gates.check_round_trips([10, 12]).name]
    for method, names in asked.items():
        told = [row[0].strip("`") for row in rows if method in row[1].split(", ")]
        assert sorted(told) == sorted(names), method


def test_thresholds_of_the_gates() -> None:
    holds = {row[0].strip("`"): row[2] for row in tables("optuna_workflow")["Gates/gate"]}
    for name, number in {
        "rhat": f"<= {gates.RHAT}",
        "ess_bulk": f">= {gates.ESS_BULK:.0f}",
        "relative_se": f"<= {gates.RELATIVE_SE:.0%}".replace("%", " %"),
        "divergences": f"{gates.DIVERGENCE_RATE:.1%}".replace("%", " %"),
        "virial": f"within {gates.VIRIAL_SIGMAS:.0f} standard",
        "below_minimum": f"{gates.BELOW_MINIMUM:.1%}".replace("%", " %"),
        "shift_bias": f"{gates.SHIFT_BIAS:.1%}".replace("%", " %"),
        "diversity": f"{particle_gates.UNIQUE_ANCESTORS} draws",
        "acceptance": f"{particle_gates.ACCEPTANCE} or more",
        "moves": f"<= {particle_gates.LEFTOVER}",
        "round_trips": f"{gates.ROUND_TRIPS} times or more",
        "elsewhere": f"at most {gates.ELSEWHERE} of",
        "agreement": f"within {gates.AGREEMENT_SIGMAS:.0f} joint",
    }.items():
        assert number in holds[name], name


def test_columns_of_the_table() -> None:
    rows = tables("results")["optuna_trials.parquet/column"]
    told = {row[0].strip("`"): row[1] for row in rows}
    plain = {name: str(kind) for name, kind in COLUMNS.items()}
    assert told == {**plain, **dict.fromkeys(("hyperparams", *MAPPINGS), "struct")}
    names = {name for ranges in SEARCH_SPACE.values() for name in ranges}
    assert set(re.findall(r"`params_(\w+)`", page("results"))) == names


def test_keys_of_the_best(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    write_best(path, some_rows())
    entry = yaml.safe_load(path.read_text())["p_1"]
    section = page("results").split("## optuna_best.yaml")[1].split("\n## ")[0]
    told = re.findall(r"`(\w+)`", section.split("Where its settings")[0])
    assert told == [*entry, *entry["methods"]["sgld"]]
    keys = [field.name for field in fields(Confirmation)]
    assert column(tables("results")["optuna_best.yaml/key of `confirmed`"]) == keys


def test_keys_of_metrics(worked_example: Path) -> None:
    metrics, found = metrics_of(worked_example), tables("results")
    keys = [field.name for field in fields(TrialResult)]
    assert column(found["metrics.json/key"]) == list(metrics) == [*keys, "checksum"]
    told = set(column(found["diagnostics/key"]))
    assert told == set(metrics["diagnostics"]) - {"step_size"}


def test_keys_of_a_manifest(tmp_path: Path) -> None:
    store = Store.at(tmp_path, tmp_path)
    spec = TrialSpec("p_1", {}, "vi", {"lr": 0.1}, 0, 1.0)
    spec.write_manifest(store, study="s_1")
    manifest = json.loads(store.manifest("p_1", "vi", spec.trial_id).read_text())
    assert column(tables("results")["manifest.json/key"]) == list(manifest)


def test_keys_of_a_reference(worked_example: Path) -> None:
    path = worked_example / "artifacts" / "problems" / "by_hand" / "ref.json"
    reference, found = json.loads(path.read_text()), tables("results")
    keys = [field.name for field in fields(ReferenceResult)]
    assert column(found["ref.json/key"]) == list(reference) == [*keys, "checksum"]
    of_a_gate = [field.name for field in fields(gates.Gate)]
    assert column(found["gates/key of a gate"]) == list(reference["gates"][0]) == of_a_gate


def dict_keys(path: str, function: str) -> set[str]:
    """Keys of the mappings that a function writes out; read, not run."""
    module = ast.parse((ROOT / path).read_text())
    node = next(n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == function)
    mappings = [n for n in ast.walk(node) if isinstance(n, ast.Dict)]
    return {ast.literal_eval(key) for mapping in mappings for key in mapping.keys if key}


def test_keys_of_smc_diagnostics() -> None:
    section = page("results").split("SMC has ")[1].split("only.")[0]
    told = set(re.findall(r"`(\w+)`", section))
    assert told == dict_keys("lambda_hat/references/smc.py", "_diagnostics")


def test_keys_of_evidence() -> None:
    told = set(column(tables("results")["target.json/key of `evidence`"]))
    gathered = dict_keys("lambda_hat/problems/evidence.py", "gather_evidence")
    trained = dict_keys("lambda_hat/problems/training.py", "train")
    assert told == gathered | trained | dict_keys("lambda_hat/problems/problem.py", "make_problem")
