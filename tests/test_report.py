"""Claims about the report: findings are right, figures show every trial, the page is complete."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from lambda_hat.entrypoints.llc_plan import read_llc_plan
from lambda_hat.references.gates import check_gates, check_gibbs_gates
from lambda_hat.references.particle_gates import check_smc_gates
from lambda_hat.report import cost_plots, plots, settings_plots, write_report
from lambda_hat.report.__main__ import main
from lambda_hat.report.failures import failures_table
from lambda_hat.report.findings import findings, read_trials, reference_of
from lambda_hat.report.formatting import format_estimate, format_percent
from lambda_hat.report.importance import importances
from lambda_hat.report.provenance import passed_gates
from lambda_hat.report.sentences import summary
from lambda_hat.report.style import BACKGROUND, COLOURS, DARK_COLOURS, log_axis
from lambda_hat.store import Store, write_json
from lambda_hat.tables.trials import trial_row, write_table
from lambda_hat.trial import Reference, TrialSpec

PROBLEM = {"model": "quadratic", "data": "small"}
REFERENCE = Reference(5.0, 0.02, "ok")
RUNAWAY = 9.6e11
SETTINGS = {
    "sgld": {"eta0": 1e-4, "gamma": 0.3, "batch": 64, "precond_type": "adam", "steps": 9000},
    "vi": {"lr": 1e-3, "M": 2, "r": 1, "whitening_mode": "none", "steps": 3000},
    "mclmc": {"step_size": 0.1, "target_accept": 0.9, "L": 1.0, "steps": 2000},
}
STUDY = {
    "sgld": [(5.1, 0.08), (7.0, 0.1), (RUNAWAY, 1e11), (None, None), (4.0, 0.1), (5.3, 0.1)],
    "vi": [(8.0, 0.1), (None, None), (9.0, 0.1)],
    "mclmc": [(5.01, 0.04), (4.9, 0.1), (5.2, 0.3)],
}
"""LLC and standard error of each trial; None for those that failed."""
GATES: dict[str, Any] = {
    "rhat": 1.0, "ess_bulk": 500.0, "divergence_rate": 0.0, "virial_ratio": 1.0,
    "virial_se": 0.1, "below_minimum_fraction": 0.0, "unique_ancestors": 50,
    "acceptance_rate": 0.8, "leftover_correlation": 0.1,
}  # fmt: skip


def rows_of(
    study: dict[str, list[tuple[float | None, float | None]]],
    *,
    reference: Reference = REFERENCE,
    label: str = "quadratic/small",
    pid: str = "p_1",
) -> Iterator[dict[str, Any]]:
    """Rows as a run leaves them; each trial has settings a little larger than the last one's."""
    for method, trials in study.items():
        for number, (llc, se) in enumerate(trials):
            params = {
                name: value if isinstance(value, str) else type(value)(value * (1 + number))
                for name, value in SETTINGS[method].items()
            }
            spec = TrialSpec(pid, PROBLEM, method, params, number, 30.0)
            result = spec.failure("The losses diverged.", llc_ref=5.0, runtime_sec=1.0 + number)
            if llc is not None:
                given = replace(result, error_msg=None, work={"full_gradients": 1e4})
                result = given.completed(llc, se or 0.0)
            objective = abs(llc - (reference.llc_ref or 0.0)) if llc is not None else 9.0
            yield trial_row(
                spec, result, number=number, label=label, objective=objective, reference=reference
            )


def trials_of(study: dict[str, list], tmp_path: Path, **kwargs: Any) -> pd.DataFrame:
    write_table(tmp_path / "t.parquet", list(rows_of(study, **kwargs)))
    return read_trials(tmp_path / "t.parquet")


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return trials_of(STUDY, tmp_path_factory.mktemp("trials"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run's folders, with its report."""
    home = tmp_path_factory.mktemp("run")
    store = Store.at(home / "artifacts", home / "results")
    rows = [*rows_of(STUDY), *rows_of({"vi": [(5.0, 0.1)]}, pid="p_2", label="a<b & c")]
    write_table(store.trials_table, rows)
    for row in rows:
        spec = TrialSpec(
            row["pid"], PROBLEM, row["method"], row["hyperparams"], row["seed"], row["budget_sec"]
        )
        assert spec.trial_id == row["trial_id"]
        spec.write_manifest(store)
    given = {"method": "hmc", "llc_ref": 5.0, "se_ref": 0.02, "n": 100, "d": 3, "nbeta": 21.7}
    given |= {"diagnostics": GATES, "evidence": {"status": "exact"}, "versions": {"x64": True}}
    gates = check_gates(llc=5.0, se=0.02, diagnostics=GATES, evidence=given["evidence"])
    given["gates"] = [gate.to_json() for gate in gates]
    write_json(store.reference("p_1"), {**given, "status": "ok", "reasons": []})
    write_report(store, command="parsl-optuna --config 'my file.yaml' --local", notes=["Beware."])
    return store


def page_of(store: Store) -> str:
    return (store.results / "report.html").read_text()


# Findings.


def test_the_summary_says_what_was_found(trials: pd.DataFrame) -> None:
    said = summary(findings(trials), format_estimate(*reference_of(trials)))
    assert said == (
        "mclmc agrees with the reference (5.010 ± 0.040 against 5.000 ± 0.020; 2 of 3 trials do), "
        "within 5 % after 1 s and 1e4 gradients; "
        "sgld agrees too (5.100 ± 0.080; 1 of 6 trials) in 1 s and 1e4 gradients; "
        "vi is 60 % high (8.00 ± 0.10) in 1 s and 1e4 gradients."
    )


def test_counts_of_a_method(trials: pd.DataFrame) -> None:
    sgld, vi, mclmc = findings(trials)
    assert (sgld.trials, sgld.failed, sgld.agreeing) == (6, 1, 1)
    assert (vi.trials, vi.failed, vi.agreeing) == (3, 1, 0)
    assert (mclmc.trials, mclmc.failed, mclmc.agreeing) == (3, 0, 2)


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ([(5.5, 0.9)], "vi is too noisy to tell (1 of 1 trial is)"),
        ([(None, None)] * 2, "vi gave no estimate in 2 trials"),
        ([(4.0, 0.1)], "vi is 20 % low"),
        ([(RUNAWAY, 0.1)], "vi is more than 1000 % high"),
    ],
)
def test_what_is_no_agreement_is_not_called_one(study: list, said: str, tmp_path: Path) -> None:
    trials = trials_of({"vi": study}, tmp_path)
    sentence = summary(findings(trials), "5.000 ± 0.020")
    assert sentence.startswith("No method is shown to agree with the reference, 5.000 ± 0.020: ")
    assert said in sentence


def test_numbers_as_a_person_reads_them() -> None:
    assert [format_percent(x) for x in (0.0, 0.000644, 0.064, 0.664, 6.4)] == [
        "0 %", "0.064 %", "6.4 %", "66 %", "640 %",
    ]  # fmt: skip
    assert format_estimate(5.9176, 0.0201) == "5.918 ± 0.020"
    assert format_estimate(None, 0.1) == "-"


# Figures.

FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "estimates": plots.estimates,
    "errors_by_cost": cost_plots.errors_by_cost,
    "history": plots.history,
    "hyperparameters": lambda trials: settings_plots.hyperparameters(trials, "sgld"),
}


def draw(figure: Figure) -> Figure:
    """Lays the figure out, which is when Matplotlib warns of what does not fit."""
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_its_finding_and_its_units(name: str, trials: pd.DataFrame) -> None:
    figure = draw(FIGURES[name](trials))
    assert re.search("sgld", figure.get_suptitle())
    for axes in figure.axes:
        assert axes.get_xlabel()
    left = [axes for axes in figure.axes if axes.get_subplotspec().is_first_col()]  # type: ignore
    assert all(axes.get_ylabel() or name == "estimates" for axes in left)


def test_a_runaway_chain_does_not_stretch_the_axes(trials: pd.DataFrame) -> None:
    assert trials.llc_hat.max() == RUNAWAY
    for axes in plots.estimates(trials).axes:
        assert axes.get_xlim()[1] < 20
    for name in ("errors_by_cost", "history", "hyperparameters"):
        figure = draw(FIGURES[name](trials))
        assert all(axes.get_ylim()[1] < 100 for axes in figure.axes)
        assert "off the scale: 1, up to 1.9e11 times" in figure.get_supxlabel()
    assert "1 trial beyond the axis" in plots.estimates(trials).get_supxlabel()


def marks(figure: Figure, marker: Any) -> int:
    lines = [line for line in figure.axes[0].get_lines() if line.get_marker() == marker]
    return sum(len(np.atleast_1d(line.get_xdata())) for line in lines)


def test_two_panels_share_the_width_of_the_figure(trials: pd.DataFrame) -> None:
    panels = draw(cost_plots.errors_by_cost(trials)).axes
    assert len(panels) == 2 and all(axes.get_position().width > 0.35 for axes in panels)


@pytest.mark.parametrize("name", ["errors_by_cost", "history"])
def test_every_trial_is_drawn_once(name: str, trials: pd.DataFrame) -> None:
    figure = FIGURES[name](trials)
    assert marks(figure, "x") == trials.llc_hat.isna().sum() == 2
    assert marks(figure, 6) == 1
    assert sum(marks(figure, kind) for kind in "osD") == len(trials) - 3


ODD: dict[str, tuple[dict[str, list], Reference]] = {
    "one trial": ({"vi": [(6.0, 0.1)]}, REFERENCE),
    "no estimate": ({"vi": [(None, None)] * 3}, REFERENCE),
    "all ran away": ({"sgld": [(RUNAWAY, 1.0), (-RUNAWAY, 1.0)]}, REFERENCE),
    "an exact hit": ({"mclmc": [(5.0, 0.1), (5.0, 0.0)]}, REFERENCE),
    "no standard error": ({"mclmc": [(5.1, None), (4.9, None)]}, REFERENCE),
    "an exact reference": ({"vi": [(5.2, 0.1), (5.1, 0.1)]}, Reference(5.0, 0.0, "ok")),
    "no positive reference": ({"vi": [(5.2, 0.1)]}, Reference(-1.0, 0.5, "unreliable")),
    "a reference of zero": ({"vi": [(0.2, 0.1)]}, Reference(0.0, 0.5, "unreliable")),
    "many trials": ({"mclmc": [(5.0 + 0.001 * i, 0.1) for i in range(700)]}, REFERENCE),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_studies_have_their_page(case: str, tmp_path: Path) -> None:
    study, reference = ODD[case]
    store = Store.at(tmp_path / "artifacts", tmp_path / "results")
    write_table(store.trials_table, list(rows_of(study, reference=reference)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(store)
    assert page_of(store).count("<figure>") == (5 if case == "many trials" else 4)


def test_a_lost_worker_leaves_its_trial_in_the_page(tmp_path: Path) -> None:
    lost = [{**row, "runtime_sec": None, "objective": None} for row in rows_of(STUDY)]
    lost = [row for row in lost if row["llc_hat"] is None]
    store = Store.at(tmp_path / "artifacts", tmp_path / "results")
    write_table(store.trials_table, lost)
    write_report(store)
    assert "gave no estimate" in page_of(store) and "No trial has a known cost" in page_of(store)


def test_a_trial_that_failed_before_its_first_gradient_has_its_place(tmp_path: Path) -> None:
    rows = [{**row, "work": {"full_gradients": 0.0}} for row in rows_of({"vi": [(None, None)]})]
    write_table(tmp_path / "t.parquet", [*rows, *rows_of({"sgld": [(5.1, 0.1), (5.2, 0.1)]})])
    figure = draw(cost_plots.errors_by_cost(read_trials(tmp_path / "t.parquet")))
    assert len(figure.axes) == 2 and marks(figure, "x") == 1


@pytest.mark.parametrize("low", [1e-7, 0.013, 1.25, 1.2512, 500, 5_000])
@pytest.mark.parametrize("ratio", [1, 1.01, 1.2, 3, 40, 1e3, 1e6])
def test_a_log_axis_has_a_few_labels(low: float, ratio: float) -> None:
    axes = Figure().subplots()
    log_axis(axes, low, low * ratio, most=4)
    ticks = axes.get_xticks()
    assert 1 <= len(ticks) <= 4
    assert axes.get_xlim()[0] < low and axes.get_xlim()[1] > low * ratio


def test_figures_leave_the_callers_style_alone(trials: pd.DataFrame) -> None:
    import matplotlib as mpl

    before, had_pyplot = dict(mpl.rcParams), "matplotlib.pyplot" in sys.modules
    plots.history(trials)
    assert dict(mpl.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot  # ArviZ, in other tests, loads it.


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 has it."""
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_stand_out_on_light_and_dark_pages(colour: str) -> None:
    for line, page in ((colour, BACKGROUND), (DARK_COLOURS[colour], DARK_COLOURS[BACKGROUND])):
        low, high = sorted((luminance(line), luminance(page)))
        assert (high + 0.05) / (low + 0.05) >= 3.0


# The page.


class Reader(HTMLParser):
    """Collects what a page refers to, and checks that its elements nest."""

    VOID = {"meta", "br", "image", "path", "use", "rect", "circle"}

    def __init__(self, page: str):
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [v or "" for name, v in attrs if name in ("href", "src", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_needs_nothing_else(store: Store) -> None:
    page = page_of(store)
    reader = Reader(page)
    assert reader.open == [] and not {"link", "iframe"} & set(reader.tags)
    assert "default-src 'none'" in page and not re.search(r"fetch|XMLHttp|import\(|src=", page)
    assert len(reader.ids) == len(set(reader.ids))
    inside = {link.removeprefix("#") for link in reader.links if link.startswith("#")}
    inside |= set(re.findall(r"url\(#([^)]*)\)", page))
    assert inside and inside <= set(reader.ids)
    assert all(link.startswith(("#", "data:image/png")) for link in reader.links)
    assert set(re.findall(r"var\(--(\w+)\)", page)) <= set(re.findall(r"--(\w+):", page))


def test_the_page_says_what_was_found_and_how(store: Store) -> None:
    text = "".join(Reader(page_of(store)).text).replace("\xa0", " ")
    for said in (
        "mclmc agrees with the reference (5.010 ± 0.040 against 5.000 ± 0.020; 2 of 3",
        "parsl-optuna --config 'my file.yaml' --local",
        "Beware.",
        "w* is a minimum in closed form.",
        "n = 100, d = 3, nβ = 21.7",
        "The losses diverged.",
        "eta0=0.0001 gamma=0.3 batch=64 precond_type=adam steps=9000",
        "a<b & c",
    ):
        assert said in text, said


def texts(page: str, column: int, table: int = 0) -> list[str]:
    """The cells of a column of a table of the page."""
    body = re.findall(r"<tbody>(.*?)</tbody>", page, re.S)[table]
    rows = [re.findall(r"<td.*?>(.*?)</td>", row, re.S) for row in body.split("</tr>")]
    return [html.unescape(re.sub("<.*?>", "", row[column])) for row in rows if row]


def test_the_first_table_has_every_problem_and_method(store: Store) -> None:
    page = page_of(store)
    assert texts(page, 0) == ["quadratic/small"] * 4 + ["a<b & c"] * 2
    assert texts(page, 1) == ["reference (HMC)", "sgld", "vi", "mclmc", "reference ", "vi"]
    assert texts(page, 2)[:4] == ["ok", "agrees", "60 % high", "agrees"]
    assert texts(page, 3)[:2] == ["5.000 ± 0.020", "5.100 ± 0.080"]
    assert texts(page, 6)[0] == "1.000" and texts(page, 7)[0] == "500"
    assert texts(page, 8)[1] == "1e4" and texts(page, 9)[1] == "1"


def test_failures_are_grouped_by_reason_with_counts_and_ranges(tmp_path: Path) -> None:
    rows = list(rows_of({"sgld": [(5.0, 0.1), (None, None), (None, None), (None, None)]}))
    for row, reason in zip(
        rows[1:], ("Diverged by step 7.", "Diverged by step 9.", "No"), strict=True
    ):
        row["error_msg"] = reason
    write_table(tmp_path / "t.parquet", rows)
    table = failures_table(read_trials(tmp_path / "t.parquet"))
    assert table is not None
    first, second = [[cell.text for cell in row] for row in table.rows]
    assert first[:2] == ["sgld", "Diverged by step 7."] and first[3] == "2"
    assert "steps 18000 to 27000 (9000 to 36000)" in first[2] and second[3] == "1"


def test_the_setting_that_decides_is_the_most_important(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), []
    for row in rows_of({"sgld": [(5.0, 0.1)] * 40}):
        eta0 = float(10 ** rng.uniform(-6, -1))
        row["hyperparams"] = {**row["hyperparams"], "eta0": eta0, "gamma": float(rng.uniform())}
        rows.append({**row, "objective": abs(np.log10(eta0) + 4)})
    write_table(tmp_path / "t.parquet", rows)
    trials = read_trials(tmp_path / "t.parquet")
    shares = importances(trials, "sgld")
    assert next(iter(shares)) == "eta0" and shares["eta0"] > 0.5
    assert sum(shares.values()) == pytest.approx(1.0)
    assert importances(trials[:9], "sgld") == {}
    assert importances(trials.assign(objective=1.0), "sgld") == {}, "all are as good as the best"


def test_provenance_and_runs_of_parsl_llc_are_in_the_page(tmp_path: Path) -> None:
    store = Store.at(tmp_path / "artifacts", tmp_path / "results")
    rows = list(rows_of(STUDY))
    write_table(store.trials_table, rows)
    write_table(store.llc_table, [{**rows[0], "seed": 4711, "method": "hmc"}])
    journal = store.journal("p_1", "vi")
    journal.parent.mkdir(parents=True)
    ranges = {"lr": {"low": 1e-4, "high": 0.1, "log": True}, "M": {"choices": [1, 2]}}
    stamp = {"fingerprint": {"search_space": ranges, "optuna": {"seed": 5}}}
    journal.write_text('{"op_code": 0}\n' + json.dumps({"op_code": 2, "user_attr": stamp}) + "\n")
    write_report(store, command="parsl-optuna --local")
    assert main([str(store.results)]) == 0  # Made again, it says the same of the run.
    text = "".join(Reader(page_of(store)).text)
    for said in (
        "Runs of parsl-llc",
        "4711",
        "driver's CPU",
        "optuna 5",
        "parsl 20",
        "0.0001 to 0.1, on a log scale",
    ):
        assert said in text, said
    assert "5, of the search" in text


def test_gates_that_hold_are_told_as_they_were_stored() -> None:
    given: dict[str, Any] = {"llc": 5.0, "se": 0.02, "diagnostics": GATES}
    for check in (check_gates, check_smc_gates, check_gibbs_gates):
        gates = check(**given, evidence={"status": "ok", "shift_bias": 1e-3})
        told = passed_gates({"gates": [gate.to_json() for gate in gates]})
        assert told == [gate.sentence.replace("+-", "±") for gate in gates]


def test_an_unreliable_reference_is_called_so(tmp_path: Path) -> None:
    store = Store.at(tmp_path / "artifacts", tmp_path / "results")
    write_table(
        store.trials_table, list(rows_of(STUDY, reference=Reference(5.0, 1.0, "unreliable")))
    )
    write_json(store.reference("p_1"), {"reasons": ["R-hat is 1.4, above 1.01."]})
    write_report(store)
    text = "".join(Reader(page_of(store)).text)
    assert "The reference is unreliable" in text and "✗R-hat is 1.4, above 1.01." in text
    assert "✓" not in text  # Stored without gates, as by an earlier version: none is asked again.


def test_the_settings_to_confirm_are_a_config_of_parsl_llc(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(Reader(page_of(store)).text)
    found = re.search(r"problems:\n.*?method_budget_sec\": [\d.]+}", text, re.S)
    assert found
    (tmp_path / "confirm.yaml").write_text(found[0])
    monkeypatch.chdir(tmp_path)
    plan = read_llc_plan(Path("confirm.yaml"), [], {})
    assert [(s.name, s.seed) for s in plan.samplers][:3] == [("sgld", 1), ("sgld", 2), ("sgld", 3)]
    assert plan.samplers[0].hyperparams["eta0"] == SETTINGS["sgld"]["eta0"]
    assert plan.method_budget == 30.0


# When it is written.


def test_a_page_is_written_again_if_there_is_news_or_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.at(tmp_path / "artifacts", tmp_path / "results")
    write_table(store.trials_table, list(rows_of({"vi": [(5.1, 0.1)]})))
    path = write_report(store, command="parsl-optuna --local")
    first = path.stat().st_mtime_ns
    write_report(store, command="parsl-optuna --local")
    assert path.stat().st_mtime_ns == first
    write_table(store.trials_table, list(rows_of({"vi": [(5.1, 0.1), (6.0, 0.1)]})))
    assert main([str(store.results)]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert path.stat().st_mtime_ns > first
    assert page_of(store).startswith("<!doctype html>") and "2 trials of vi" in page_of(store)
    assert "parsl-optuna --local</code>" in page_of(store)


def test_a_folder_without_a_table_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "must hold optuna_trials.parquet" in capsys.readouterr().err


def test_the_command_starts_without_pandas_and_matplotlib() -> None:
    code = "import sys, lambda_hat.entrypoints.parsl_optuna; "
    code += "sys.exit(bool({'matplotlib', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_draws_a_page_is_imported_ahead_and_not_with_the_command() -> None:
    script = (
        "import sys, threading; from lambda_hat.report import import_ahead\n"
        "page = 'lambda_hat.report.page'; assert page not in sys.modules\n"
        "import_ahead(); others = set(threading.enumerate()) - {threading.main_thread()}\n"
        "[thread.join() for thread in others]; assert page in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
