"""Classes of a user's own, by their text: made again from it in a worker that cannot import them.

A class statement that is run again registers its class with JAX, Equinox or Flax as the first time;
a copy of its attributes does not.
"""

from __future__ import annotations

import ast
import dis
import inspect
import linecache
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping
from typing import Any


class NoText(ValueError):
    """The text of a class is not to be found."""


def class_text(cls: type) -> str:
    """The class statement, decorators included, flush left.

    Raises:
        NoText: It was typed at a prompt, or made by a function.
    """
    for file in _files(cls):
        lines = linecache.getlines(file)
        try:
            tree = ast.parse("".join(lines))
        except SyntaxError:  # A cell with a magic of IPython's.
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
                first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                return textwrap.dedent("".join(lines[first - 1 : node.end_lineno]))
    raise NoText(cls.__name__)


def _files(cls: type) -> Iterator[str]:
    """Where its text may be: in its module, where a method of its is, or in a notebook's cell."""
    module = sys.modules[cls.__module__]
    if getattr(module, "__file__", None):
        yield str(module.__file__)
    for function in _functions(cls):
        yield function.__code__.co_filename
    if module.__name__ == "__main__":
        yield from reversed(list(linecache.cache))


def _functions(cls: type) -> Iterator[types.FunctionType]:
    for name in vars(cls):
        found = getattr(cls, name, None)
        function = inspect.unwrap(found) if callable(found) else None
        if isinstance(function, types.FunctionType):
            yield function


def outer_names(code: types.CodeType) -> set[str]:
    """The names that code looks up outside itself, in the functions within it too."""
    loads = ("LOAD_GLOBAL", "LOAD_NAME")
    names = {step.argval for step in dis.get_instructions(code) if step.opname in loads}
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return names.union(*map(outer_names, inner))


def outer_values(cls: type, text: str) -> dict[str, Any]:
    """What a class refers to outside itself, by name: globals, and locals of a function around."""
    known = dict(vars(sys.modules[cls.__module__]))
    for function in _functions(cls):
        known |= closed_over(function)
    names = outer_names(compile(text, "<class>", "exec")) - {cls.__name__}
    return {name: known[name] for name in sorted(names) if name in known}


def closed_over(function: types.FunctionType) -> dict[str, Any]:
    """What a function holds of the function around it, by name."""
    held = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            held[name] = cell.cell_contents
        except ValueError:  # It is not bound yet.
            continue
    return held


def reduced(cls: type) -> tuple[Any, ...]:
    """What pickle needs to make a class again from its text.

    Raises:
        NoText: It is not to be found.
    """
    text = class_text(cls)
    values = outer_values(cls, text)
    first = _first_names(text)  # The methods' own names may lead back to the class, and come later.
    now = {name: value for name, value in values.items() if name in first}
    later = {name: value for name, value in values.items() if name not in first}
    return _make, (cls.__name__, cls.__module__, text, now), later, None, None, _complete


def _first_names(text: str) -> set[str]:
    """The names that a class statement needs when it is run: bases, decorators, annotations."""
    code = compile(text, "<class>", "exec")
    body = next(const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names) | set(body.co_names)


_namespaces: dict[type, dict[str, Any]] = {}
"""The globals of classes that were made again."""


def _make(name: str, module: str, text: str, values: Mapping[str, Any]) -> type:
    namespace = {"__name__": module, **values}
    file = f"<{name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), namespace)
    _namespaces[namespace[name]] = namespace
    return namespace[name]


def _complete(cls: type, values: Mapping[str, Any]) -> None:
    _namespaces[cls].update(values)
