"""Copies all studies of a results folder into one Optuna storage, which one dashboard shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import JournalStorage, RDBStorage

from lambda_hat.conf.checks import ConfigError
from lambda_hat.store import replacing
from lambda_hat.tuning.optuna_internals import plain_storage


def export_studies(journals: Sequence[Path], database: Path) -> list[str]:
    """Writes the studies of these journals, with all that Optuna knows of them, into one database.

    Args:
        journals: Journal files; none is changed.
        database: The SQLite file to make, whole or not at all.

    Returns:
        The names of the studies, in the order of the journals.

    Raises:
        ConfigError: A journal is damaged.
    """
    with replacing(database) as temporary:
        storage = RDBStorage(storage_url(temporary))
        try:
            return [name for journal in journals for name in _copy(journal, storage)]
        finally:
            storage.remove_session()
            storage.engine.dispose()


def storage_url(database: Path) -> str:
    """The URL under which Optuna and its dashboard open a SQLite file."""
    return sqlalchemy.URL.create("sqlite", database=str(database)).render_as_string()


def _copy(journal: Path, storage: RDBStorage) -> list[str]:
    source = _opened(journal)
    names = optuna.get_all_study_names(source)
    for name in names:
        optuna.copy_study(from_study_name=name, from_storage=source, to_storage=storage)
    return names


def _opened(journal: Path) -> JournalStorage:
    try:
        return plain_storage(journal)
    except (ValueError, LookupError) as error:
        raise ConfigError(
            [
                f"{journal} must hold a study, but is damaged ({error}). Run parsl-optuna once "
                "more, which mends it."
            ]
        ) from None
