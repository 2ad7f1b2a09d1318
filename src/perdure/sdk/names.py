"""Names of classes and functions that mean the same in every process.

A class travels as "module.qualname". The script that a process was started with is called `__main__` there and
by its real name elsewhere, so `__main__` never travels: "app.QuotaExceeded" is what `python app.py` sends, and
what it understands.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from types import ModuleType
from typing import Final, cast

SPAWNED_MAIN: Final = "__mp_main__"
"""What a worker's `__main__` is called in the processes of its pool, as multiprocessing calls it."""


def real_module(module: str) -> str:
    """A module's name as other processes know it."""
    return _main_module() if module in ("__main__", SPAWNED_MAIN) else module


def main_place() -> tuple[str, str] | None:
    """Where another process finds this one's `__main__`: its name, as `python -m` takes it, or else its file ("": the
    other one). None where it can't."""
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return cast(str, spec.name), ""
    return ("", str(Path(file).absolute())) if file else None


def named(function: Callable[..., object], kind: str) -> str:
    """The name of a function that is to be an activity or a workflow. Raises TypeError where it has none."""
    if function.__name__ == "<lambda>":
        raise TypeError(f'a lambda has no name to be found by: use `def`, or name it, @{kind}(name="…")')
    return function.__name__


def class_name(cls: type[object]) -> str:
    """The name of a class on the wire."""
    return f"{real_module(cls.__module__)}.{cls.__qualname__}"


def mro_names(cls: type[BaseException]) -> tuple[str, ...]:
    """The names of an exception class and of its bases, most derived first; what every exception is, is left out."""
    return tuple([class_name(base) for base in cls.__mro__ if base is not object and base is not BaseException])


def find_exception(name: str) -> type[Exception] | None:
    """The class of that name among the modules that are imported already.

    Nothing is imported, and no attribute is computed: a module's `__getattr__` might import. The class must be
    an `Exception` that calls itself by this very name; and no StopIteration, which can't be raised into a coroutine.
    """
    parts = name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        module, path = ".".join(parts[:split]), parts[split:]
        if module == _main_module():
            found = _exception_at("__main__", path)
            if found is not None:
                return found
        found = _exception_at(module, path)
        if found is not None:
            return found
    return None


def _main_module() -> str:
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # started as `python -m name`
        return cast(str, spec.name)
    file = getattr(main, "__file__", None)
    return PurePath(file).stem if file else "__main__"


def _exception_at(module: str, path: list[str]) -> type[Exception] | None:
    found: object = sys.modules.get(module)
    if not isinstance(found, ModuleType):
        return None
    for part in path:
        namespace: Mapping[str, object] = vars(found) if isinstance(found, ModuleType | type) else {}
        found = namespace.get(part)
    if not (isinstance(found, type) and issubclass(found, Exception)) or issubclass(found, StopIteration):
        return None
    return found if (found.__module__, found.__qualname__) == (module, ".".join(path)) else None
