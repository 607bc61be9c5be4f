"""Finds a file here under its name, or else the copy that came with the package."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
PATTERNS = ("config/*.yaml", "parsl_config_*.py")
"""What a person runs; pyproject.toml puts the same files into the wheel."""


def shipped_files() -> dict[str, Path]:
    """The files that came with the package, by the name they have in a clone."""
    inside = PACKAGE / "shipped"
    root = inside if inside.is_dir() else PACKAGE.parent  # The latter is a clone.
    return {
        path.relative_to(root).as_posix(): path
        for pattern in PATTERNS
        for path in sorted(root.glob(pattern))
    }


def here_or_shipped(path: Path) -> Path:
    """The file that is named, or the package's own of that name, which is then said in a line.

    A file that neither has is returned as it was named: its reader says what is wrong.
    """
    own = shipped_files().get(path.as_posix())
    if own is None or path.exists():
        return path
    print(f"There is no {path} here, so the one that came with the package is used: {own}")
    return own
