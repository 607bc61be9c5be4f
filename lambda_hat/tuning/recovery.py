"""Finds the trials that a study's journal has lost, by their manifests.

A journal can lose its end: to a power cut, which takes what was not synced, or to a disk that
spoils it. The trials themselves still lie in the artifacts folder. A manifest names the study that
asked, and its seed is derived from the trial's number, so that each can be given its number back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lambda_hat.store import BrokenFile, Store, content_id, read_json


def study_id(fingerprint: Mapping[str, Any]) -> str:
    """Names what a study's proposals and scores depend on, its reference included.

    Studies of two results folders with the same name here are one study: what the one has run is
    what the other would ask for.
    """
    return content_id("s", dict(fingerprint))


def unrecorded_trials(
    store: Store, pid: str, method: str, *, study: str, recorded: Collection[str]
) -> dict[int, Mapping[str, Any]]:
    """The settings of a study's trials that its journal does not know, by the trial's seed.

    Args:
        store: Where the trials are.
        pid: The problem.
        method: The method.
        study: The study's `study_id`.
        recorded: The ids of the trials that the journal knows.
    """
    found: dict[int, Mapping[str, Any]] = {}
    folders = [f for f in store.trial_folders(pid, method) if f.name not in recorded]
    # Should two have the same seed, the one that has ended counts: it comes last.
    for folder in sorted(folders, key=lambda folder: (folder / "metrics.json").exists()):
        try:
            manifest = read_json(folder / "manifest.json", ("seed", "hyperparams"))
        except (FileNotFoundError, BrokenFile):
            continue  # Its writer was killed, and nobody has run it: it is asked for anew.
        if manifest.get("study") == study:
            found[manifest["seed"]] = manifest["hyperparams"]
    return found
