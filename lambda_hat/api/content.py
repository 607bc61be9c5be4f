"""What a function is by its content: the same in every session, so that an id can be made of it.

What is installed is its name. What a user wrote is its text with all that it refers to: functions
and classes of a notebook or script one by one, a module of the user's own as a whole. Any other
value is what `pickle` would take it apart into.
"""

from __future__ import annotations

import inspect
import sys
import sysconfig
import textwrap
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lambda_hat.api.own_classes import (
    NoText,
    class_text,
    closed_over,
    outer_names,
    outer_values,
)
from lambda_hat.conf import ConfigError
from lambda_hat.store import digest, digest_bytes

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))
_STDLIB = Path(sysconfig.get_path("stdlib"))
_INSTALLED = {"site-packages", "dist-packages"}


class Content:
    """The content of values, and the modules of the user's own that it came upon.

    Args:
        what: What messages call the first value.
    """

    def __init__(self, what: str):
        self.modules: dict[str, types.ModuleType] = {}
        self._what = what
        self._known: dict[int, str] = {}
        self._under_way: list[int] = []
        self._kept: list[Any] = []  # Ids are of what is alive.

    def digest(self, value: Any, name: str = "") -> str:
        """SHA-256 of a value, `name` being what the text above it calls it.

        Raises:
            ConfigError: It can be told by nothing but where it lies in memory.
        """
        if isinstance(value, _PLAIN):
            return digest([type(value).__name__, repr(value)])
        if id(value) in self._under_way:
            return digest(["again", len(self._under_way) - self._under_way.index(id(value))])
        if id(value) not in self._known:
            self._kept.append(value)
            self._under_way.append(id(value))
            parts = [type(value).__name__, *self._parts(value, name)]
            self._under_way.pop()
            self._known[id(value)] = digest(parts)
        return self._known[id(value)]

    def _parts(self, value: Any, name: str) -> Iterator[str]:
        if (home := _home(value)) is not None:
            yield from self._named(*home)
        elif isinstance(value, types.ModuleType):
            yield from self._module(value)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value, name)
        elif isinstance(value, type):
            yield from self._class(value)
        elif hasattr(value, "dtype") and hasattr(value, "__array__"):
            yield from self._array(value, name)
        elif isinstance(value, Mapping):
            yield from sorted(self.digest(list(item), name) for item in value.items())
        elif isinstance(value, set | frozenset):
            yield from sorted(self.digest(item, name) for item in value)
        elif type(value) in (list, tuple):
            yield from (self.digest(item, name) for item in value)
        else:
            yield from self._taken_apart(value, name)

    def _named(self, module: types.ModuleType, name: str) -> Iterator[str]:
        """What a module has under its name: the name alone where the module is installed."""
        yield f"{module.__name__}:{name}"
        if not is_installed(module):
            yield self.digest(module)

    def _module(self, module: types.ModuleType) -> Iterator[str]:
        """A module of the user's own is its text, with all modules like it that it imports."""
        yield module.__name__
        if is_installed(module):
            return
        self.modules[module.__name__] = module
        yield digest_bytes([Path(str(module.__file__)).read_bytes()])
        held = list(vars(module).values())
        used = {v if isinstance(v, types.ModuleType) else _module_of(v) for v in held} - {module}
        own = [m for m in used if m is not None and _is_file(m) and not is_installed(m)]
        yield from map(self.digest, sorted(own, key=lambda m: m.__name__))

    def _function(self, function: types.FunctionType, name: str) -> Iterator[str]:
        code, known = function.__code__, function.__globals__
        try:
            yield textwrap.dedent(inspect.getsource(code))
        except OSError:
            raise self._without_text(name) from None
        yield self.digest([function.__defaults__, function.__kwdefaults__], function.__name__)
        found = {free: known[free] for free in outer_names(code) if free in known}
        yield from self._values({**found, **closed_over(function)})

    def _class(self, cls: type) -> Iterator[str]:
        try:
            text = class_text(cls)
        except NoText:
            raise self._refused(cls.__name__, "a class whose text is not found") from None
        yield text
        yield from self._values(outer_values(cls, text))

    def _values(self, values: Mapping[str, Any]) -> Iterator[str]:
        for name, value in sorted(values.items()):
            yield f"{name} {self.digest(value, name)}"

    def _array(self, value: Any, name: str) -> Iterator[str]:
        import numpy as np

        try:
            array = np.asarray(value)
        except Exception:
            raise self._refused(name, f"a {type(value).__name__}") from None
        if array.dtype.hasobject:
            raise self._refused(name, "an array of objects")
        yield f"{array.dtype} {array.shape}"
        yield digest_bytes([array.tobytes()])

    def _taken_apart(self, value: Any, name: str) -> Iterator[str]:
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:
            raise self._refused(name, f"a {type(value).__name__}") from None
        if isinstance(reduced, str):
            yield reduced
            return
        for part in reduced:
            yield self.digest(list(part) if isinstance(part, Iterator) else part, name)

    def _without_text(self, name: str) -> ConfigError:
        what = f"`{name}`, to which it refers," if name else "this one"
        rule = f"{self._what} must have a text that can be read, and all that it calls"
        do = "Put it into a file, or into a cell of a notebook"
        return ConfigError([f"{rule}, but {what} was typed in or made by exec. {do}."])

    def _refused(self, name: str, kind: str) -> ConfigError:
        place = f"it refers to {name!r}" if name else "it is itself"
        rule = "Everything that a loss refers to must be told by its content"
        do = "Give it to the function with its data, or put the function into a module"
        return ConfigError([f"{rule}, but {place}, {kind}. {do}."])


def _home(value: Any) -> tuple[types.ModuleType, str] | None:
    """The module that has a value under its name, and the name; None where there is none."""
    module = _module_of(value)
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if module is None or not isinstance(name, str) or module.__name__ == "__main__":
        return None
    here: Any = module
    for part in name.split("."):
        here = getattr(here, part, None)
    lasting = here is value and (_is_file(module) or is_installed(module))
    return (module, name) if lasting else None


def _module_of(value: Any) -> types.ModuleType | None:
    """The module that a value says it is from."""
    name = getattr(value, "__module__", None)
    return sys.modules.get(name) if isinstance(name, str) else None


def _is_file(module: types.ModuleType) -> bool:
    """Whether a module's text lies in a file; a script's own does not count, since it goes on."""
    file = getattr(module, "__file__", None)
    return module.__name__ != "__main__" and bool(file) and str(file).endswith(".py")


def is_installed(module: types.ModuleType) -> bool:
    """Whether a module comes with Python or from a package that is installed."""
    file = getattr(module, "__file__", None)
    if file is None or module.__name__.partition(".")[0] == "lambda_hat":
        return module.__name__ != "__main__"
    path = Path(file)
    part_of_a_package = bool(_INSTALLED & set(path.parts)) or path.is_relative_to(_STDLIB)
    return part_of_a_package or path.suffix != ".py"
