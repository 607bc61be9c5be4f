"""Reads a YAML config as a person writes it, with the command line laid over it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lambda_hat.conf.checks import ConfigError, check_mapping

LONG = {"hmc_budget": "hmc_budget_sec", "method_budget": "method_budget_sec"}
"""Short names of settings, taken where the long ones are; each as the command line has it."""


def read_raw(
    path: Path | None, sets: Iterable[str], options: Mapping[str, Any], *, section: str
) -> tuple[dict[str, Any], list[str]]:
    """The file with the command line laid over it, in long names, and the faults so far.

    Args:
        path: The file; None where the command line says it all.
        sets: `a.b=c` assignments.
        options: Named options, None where not given; folders and the plugin go to the top of
            the file, all others into `section`.
        section: A key of the file.

    Raises:
        ConfigError: The file cannot be read.
    """
    raw = {} if path is None else load_yaml(path)
    faults: list[str] = []
    _spell_out(raw, section, faults)
    for assignment in sets:
        with _faults_of(f"--set {assignment.partition('=')[0]}=", faults):
            _assign(raw, assignment, section, faults)
        _spell_out(raw, section, faults)
    for name, value in options.items():
        if value is None:
            continue
        if name in ("artifacts_dir", "results_dir", "plugin"):
            raw[name] = value
            continue
        with _faults_of(f"--{name.replace('_', '-')}", faults):
            _mapping_at(raw, section, faults)[LONG.get(name, name)] = _scalar(value)
    return raw, faults


def _spell_out(raw: dict[str, Any], section: str, faults: list[str]) -> None:
    """Gives the settings of a section their long names."""
    if not isinstance(given := raw.get(section), Mapping):
        return
    faults += [
        f"`{section}` must have `{long}` or `{short}`, but has both. Leave one out."
        for short, long in LONG.items()
        if short in given and long in given
    ]
    raw[section] = {LONG.get(name, name): value for name, value in given.items()}


class _Loader(yaml.SafeLoader):
    """SafeLoader for people: 1e-3 is a number, 010 and 1:30 are refused, a date is text.

    A key that is given twice is refused as well, before merge keys (`<<`) are laid under.
    """

    yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in seen:
                raise _unwelcome(f"the key {key.value!r} is given twice", key)
            seen.add(name)
        return node

    def construct_yaml_int(self, node: Any) -> int:
        return super().construct_yaml_int(_plain_number(node))

    def construct_yaml_float(self, node: Any) -> float:
        return super().construct_yaml_float(_plain_number(node))


def _plain_number(node: Any) -> Any:
    """The node, unless YAML 1.1 reads its number in base 8 or 60, which nobody means."""
    if re.fullmatch(r"[-+]?0[0-9_]+", node.value):
        plain = node.value.replace("_", "").lstrip("+-0") or "0"
        what = f"{node.value} would be read in base 8: write {plain}"
        raise _unwelcome(f"{what}, or {node.value!r} in quotes for text", node)
    if ":" in node.value:
        raise _unwelcome(
            f"{node.value} would be read in base 60: write a number, or quotes for text", node
        )
    return node


def _unwelcome(what: str, node: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that must hold a mapping.

    Raises:
        ConfigError: It is missing, unreadable, no YAML, or holds something else.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigError(
            [f"The config must be a file, but there is no {path} here. Give --config FILE."]
        ) from None
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror}."]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} is no YAML: {_yaml_fault(error)}."]) from None
    if not isinstance(raw, dict):
        raise ConfigError([f"{path} must hold a mapping (`problems:` and so on), but got {raw!r}."])
    return raw


def _yaml_fault(error: Exception) -> str:
    problem = getattr(error, "problem", None)
    mark = getattr(error, "problem_mark", None)
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return f"{problem or str(error).splitlines()[0]}{place}"


def _scalar(text: Any) -> Any:
    return yaml.load(text, _Loader) if isinstance(text, str) else text


@contextmanager
def _faults_of(option: str, faults: list[str]) -> Iterator[None]:
    """Has an option that holds no YAML join the faults."""
    try:
        yield
    except yaml.YAMLError as error:
        faults.append(f"{option} must be given a YAML value: {_yaml_fault(error)}.")


def _assign(raw: dict[str, Any], assignment: str, section: str, faults: list[str]) -> None:
    """Lays `a.b=c` over the file; a number in the path is a place in a list."""
    path, equals, text = assignment.partition("=")
    *parents, last = path.split(".")
    if not equals or not all([*parents, last]):
        faults.append(f"--set must be given a.b=value, but got {assignment!r}.")
        return
    value = _scalar(text)
    last = LONG.get(last, last) if parents == [section] else last
    here: Any = raw
    for depth, name in enumerate(parents):
        here = _step(here, name, ".".join(parents[: depth + 1]), faults)
        if here is None:
            return
    if isinstance(here, list) and last.isdigit() and int(last) < len(here):
        here[int(last)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        faults.append(f"--set {path}: `{'.'.join(parents)}` has no place {last!r}.")


def _step(here: Any, name: str, path: str, faults: list[str]) -> Any:
    if isinstance(here, list) and name.isdigit() and int(name) < len(here):
        return here[int(name)]
    if isinstance(here, dict):
        if here.get(name) is None:
            here[name] = {}
        return here[name]
    faults.append(f"--set {path}: there is no such place in the config.")
    return None


def _mapping_at(raw: dict[str, Any], name: str, faults: list[str]) -> dict[str, Any]:
    raw[name] = dict(check_mapping(raw.get(name), name, faults))
    return raw[name]
