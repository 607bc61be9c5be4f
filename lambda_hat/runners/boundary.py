"""What both runners need at the boundary: where files are, what may be written, what ran."""

from __future__ import annotations

import functools
import gc
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from lambda_hat.conf.schema import ProblemConfig
from lambda_hat.problems import Problem, load_or_build
from lambda_hat.samplers.program import COMPILED
from lambda_hat.target import Target

MOST_MAPS = 16_000
"""A quarter of what Linux allows: the programs of about five problems, and 1.7 GB."""


def artifacts_of(out: Path, layout: str, given: str | None) -> Path:
    """The artifacts folder an output path belongs to.

    Args:
        out: path of the output file.
        layout: where such a file lies in an artifacts folder, with a `*` for each name.
        given: an explicit folder, which wins.
    """
    if given is not None:
        return Path(given).absolute()
    out = out.absolute()
    return out.parents[layout.count("/")] if out.match(layout) else Path("artifacts").absolute()


@contextmanager
def pinned_jax() -> Iterator[None]:
    """JAX's settings that change numbers or stop programs, at JAX's own defaults.

    A shell's JAX_DEFAULT_PRNG_IMPL would otherwise give other numbers under the same id, and its
    JAX_DEBUG_NANS would stop programs that use NaN as a mark. Before it hands over, the process
    makes room for programs to come. Use it as a decorator.

    Raises:
        RuntimeError: JAX finds no device of the platform that its variables name.
    """
    with ExitStack() as stack:
        for setting in (
            jax.default_prng_impl("threefry2x32"),
            jax.threefry_partitionable(True),
            jax.softmax_custom_jvp(False),
            jax.default_matmul_precision(None),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
            jax.legacy_prng_key("allow"),
            jax.disable_jit(False),
            jax.debug_nans(False),
            jax.debug_infs(False),
            jax.debug_key_reuse(False),
            jax.check_tracer_leaks(False),
            jax.transfer_guard("allow"),
        ):
            stack.enter_context(setting)
        _find_device()
        make_room()
        yield


def memory_maps() -> int:
    """How many memory maps this process has; 0 where the kernel does not count them."""
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


def make_room() -> None:
    """Forgets all compiled programs where this process has more than MOST_MAPS memory maps.

    XLA maps each program's code, and Linux gives a process 65 530 maps, beyond which the compiler
    crashes: a worker would get there after some 16 problems. The compilation cache still has
    the programs.
    """
    if memory_maps() > MOST_MAPS and COMPILED.forget():
        gc.collect()


def _find_device() -> None:
    try:
        jax.devices()
    except Exception as error:  # With a GPU's platform and no GPU, an AssertionError without text.
        platforms = os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME")
        raise RuntimeError(
            f"JAX must find a device to run on, but finds none for JAX_PLATFORMS={platforms}. "
            f"Unset it, or run where there is one. {error}".strip()
        ) from error


@contextmanager
def noted() -> Iterator[list[str]]:
    """The warnings of this package, as they come: what a worker found must reach who reads.

    In a worker they would end in a log file of one node.
    """
    notices: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: notices.append(record.getMessage())
    package = logging.getLogger("lambda_hat")
    package.addHandler(handler)
    try:
        yield notices
    finally:
        package.removeHandler(handler)


@functools.lru_cache(maxsize=4)
def load_problem(config: ProblemConfig, artifacts: Path) -> Problem:
    """The problem, read once a worker."""
    return load_or_build(config, artifacts)


@functools.lru_cache(maxsize=8)
def load_target(config: ProblemConfig, artifacts: Path, dtype: str) -> tuple[Target, str]:
    """The target and its id, put on the device once a worker."""
    problem = load_problem(config, artifacts)
    return problem.target(dtype), problem.target_id


@functools.cache
def _installed() -> dict[str, str]:
    """Versions of the packages that decide a number, read from their files once a worker."""
    names = ("lambda-hat", "jax", "jaxlib", "blackjax", "numpy", "optax", "arviz")
    return {name: metadata.version(name) for name in names}


def versions(dtype: str) -> dict[str, Any]:
    """What computed a result: the same program differs in the 7th digit between versions."""
    return {
        **_installed(),
        "python": platform.python_version(),
        "x64": dtype == "float64",
        "platform": jax.default_backend(),
    }
