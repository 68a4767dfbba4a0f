"""Objects of the user's own code, named in a config as module:attribute."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

USERS_CODE = "code of your own"  # what is said of sys.exit where it is not known which code it was


def is_module_attribute(name: str) -> bool:
    """Check whether a name has the form module:attribute."""
    module, colon, attribute = name.partition(":")
    return bool(colon and attribute) and all(part.isidentifier() for part in module.split("."))


def import_attribute(name: str, key: str) -> Any:
    """Import what "module:attribute" names; None where the module has no such attribute.

    Raises ValueError, which begins with `key`, where there is no such module.
    """
    module, _, attribute = name.partition(":")
    add_working_dir()
    try:
        with exit_is_error(f"{key}: module {module}"):
            return getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists, but something that it imports does not
        raise ValueError(
            f"{key}: there is no module {module} for {name}, neither installed nor in the working directory"
        ) from error


def add_working_dir() -> None:
    """Let imports look into the working directory first, as they do for `python -m` and not for a console script."""
    with suppress(OSError):  # it may have been removed
        here = str(Path.cwd())
        if here not in sys.path and "" not in sys.path:
            sys.path.insert(0, here)


@contextmanager
def exit_is_error(code: str) -> Iterator[None]:
    """Turn sys.exit in the body into ValueError that names the code, so that a run never ends as if it was finished.

    So are other ends that are no Exception, such as asyncio.CancelledError; Ctrl-C stays what it is.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt, GeneratorExit):
        raise
    except SystemExit as end:
        raise ValueError(
            f"{code} called sys.exit({'' if end.code is None else repr(end.code)}), which would end the run: raise an "
            "error instead"
        ) from end
    except BaseException as end:
        raise ValueError(f"{code} raised {type(end).__name__}: {end}") from end


@contextmanager
def same_working_dir() -> Iterator[None]:
    """Restore the working directory after the body, since the paths of a run may be relative to it."""
    before = None
    with suppress(OSError):  # it may have been removed
        before = Path.cwd()
    try:
        yield
    finally:
        if before is not None:
            with suppress(OSError):
                os.chdir(before)
