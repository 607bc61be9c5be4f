"""Files that a disk, a crash or a person damaged: the next run says so, and ends whole."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from instant import use_instant_runners

from lambda_hat.entrypoints import parsl_llc, parsl_optuna
from lambda_hat.store import TEMPORARY

ROUNDS = 40
CONFIG = {
    "problems": [{"model": "quadratic"}],
    "methods": ["vi", "sgld"],
    "optuna": {"confirm_seeds": 0},
}
LLC_CONFIG = {
    "problems": [{"model": "quadratic"}],
    "samplers": [{"name": "vi", "seed": seed} for seed in range(4)],
}
DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": lambda raw, chance: raw[: chance.randrange(len(raw) + 1)],
    "emptied": lambda raw, chance: b"",
    "replaced": lambda raw, chance: chance.randbytes(60),
    "zeroed at its end": lambda raw, chance: raw[:-30] + bytes(30),
    "added to": lambda raw, chance: raw + b"rubbish",
    "flipped": lambda raw, chance: flipped(raw, chance.randrange(8 * len(raw) or 1)),
}


def flipped(raw: bytes, bit: int) -> bytes:
    changed = bytearray(raw or b"\0")
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def damage_some(chance: random.Random) -> list[str]:
    """Damages up to three files of both folders; says which, and how."""
    files = [path for top in ("results", "artifacts") for path in Path(top).rglob("*")]
    files = sorted(path for path in files if path.is_file() and ".broken" not in path.name)
    done = []
    for path in chance.sample(files, chance.randint(1, 3)):
        kind = chance.choice([*DAMAGE, "deleted"])
        done.append(f"{path} {kind}")
        if kind == "deleted":
            path.unlink()
        else:
            path.write_bytes(DAMAGE[kind](path.read_bytes(), chance))
    return done


def test_whatever_is_damaged_the_next_run_ends_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    use_instant_runners(monkeypatch)
    Path("study.yaml").write_text(yaml.safe_dump(CONFIG))
    Path("llc.yaml").write_text(yaml.safe_dump(LLC_CONFIG))
    chance, done = random.Random(20261124), []
    for index in range(ROUNDS):
        trials = 8 + index // 8
        words = ["--local", "--config", "study.yaml", "--max-trials", str(trials)]
        assert parsl_optuna.main(words) == 0, (done, capsys.readouterr())
        assert parsl_llc.main(["--local", "--config", "llc.yaml"]) == 0, done
        table = pd.read_parquet("results/optuna_trials.parquet")
        numbers = table.groupby("method").trial_number.apply(sorted).tolist()
        assert numbers == [list(range(trials))] * 2, done
        assert table.trial_id.is_unique and set(table.status) == {"complete"}, done
        assert len(pd.read_parquet("results/llc_runs.parquet")) == 4, done
        assert not list(tmp_path.rglob(f"{TEMPORARY}*")), done
        assert capsys.readouterr().err == "", done
        done = damage_some(chance)
