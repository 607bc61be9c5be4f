"""A user's file of functions in place of the package's own; its text travels with each trial."""

from __future__ import annotations

import functools
import linecache
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lambda_hat.conf.checks import ConfigError, unknown_name
from lambda_hat.conf.compose import compose_sampler
from lambda_hat.conf.samplers import SamplerConfig
from lambda_hat.store import digest

NAMES = ("suggest_method_params", "objective_from_metrics", "build_sampler_cfg")
"""What a plugin may define, one or more of them."""


@dataclass(frozen=True)
class Plugin:
    """A file of functions, by its text: workers need not see the file itself."""

    path: str
    """As the user named it."""
    source: str

    @property
    def digest(self) -> str:
        """Names the content: another text is another plugin."""
        return digest(self.source)[:12]

    def function(self, name: str) -> Callable[..., Any] | None:
        """The function that it defines under one of `NAMES`, if it does.

        Raises:
            ConfigError: The file does not run, or defines none of them.
        """
        return _functions(self.path, self.source).get(name)


def read_plugin(path: Path) -> Plugin:
    """Reads and tries a plugin.

    Raises:
        ConfigError: It cannot be read, does not run, or defines no function that is known.
    """
    try:
        plugin = Plugin(str(path), path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError([f"The plugin {path} must be a Python file, but: {reason}."]) from None
    plugin.function(NAMES[0])
    return plugin


@functools.lru_cache(maxsize=4)
def _functions(path: str, source: str) -> dict[str, Callable[..., Any]]:
    """Runs the file, once a process, and takes its functions."""
    names: dict[str, Any] = {"__name__": "lambda_hat_plugin", "__file__": path}
    linecache.cache[path] = (len(source), None, source.splitlines(True), path)
    try:
        exec(compile(source, path, "exec"), names)
    except Exception as error:
        raise ConfigError([_mistake(error, path)]) from error
    found = {name: names[name] for name in NAMES if callable(names.get(name))}
    if not found:
        own = [name for name in names if not name.startswith("__") and callable(names[name])]
        near = unknown_name("A function of a plugin", own[-1] if own else None, NAMES, path)
        raise ConfigError([near])
    return found


def call_edited(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function that users edit.

    Raises:
        ConfigError: What it raised, as a sentence with file and line.
    """
    try:
        return function(*args, **kwargs)
    except ConfigError:
        raise
    except Exception as error:
        code = getattr(function, "__code__", None)
        path, line = (code.co_filename, code.co_firstlineno) if code else ("its file", 0)
        raise ConfigError([_mistake(error, path, line)]) from error


def refuse_value(function: Callable[..., Any], rule: str, value: object) -> ConfigError:
    """What to raise where a function that users edit returns something else than it must."""
    code = function.__code__
    return ConfigError(
        [
            f"`{function.__name__}` must return {rule}, but returned {value!r} "
            f"({code.co_filename}, line {code.co_firstlineno})."
        ]
    )


def place_of(error: BaseException, path: str, line: int = 0) -> str:
    """Where in a file an error arose: the innermost line of it, or else `line`."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    return f"{path}, line {lines[-1] if lines else line}"


def _mistake(error: Exception, path: str, line: int = 0) -> str:
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{place_of(error, path, line)}: {type(error).__name__}: {said}. Mend it there."


def build_settings(
    build: Callable[[Mapping[str, Any]], Any], method_cfg: Mapping[str, Any]
) -> SamplerConfig:
    """The checked settings that a `build_sampler_cfg` makes: it may also return a mapping.

    Raises:
        ConfigError: Of the settings, or of a mistake in the function.
    """
    built = call_edited(build, method_cfg)
    if isinstance(built, SamplerConfig):
        return built
    if not isinstance(built, Mapping):
        raise refuse_value(build, "settings of the sampler or a mapping of them", built)
    settings = {name: value for name, value in built.items() if name != "name"}
    return compose_sampler(method_cfg.get("name", ""), settings, where=build.__name__)
