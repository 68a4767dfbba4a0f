"""Objects of the user's own code, named in a config as module:attribute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
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
    try:
        with exit_is_error(f"{key}: module {module}"):
            return getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists, but something that it imports does not
        raise ValueError(
            f"{key}: there is no module {module} for {name}, neither installed nor in the working directory"
        ) from error


@contextmanager
def exit_is_error(code: str) -> Iterator[None]:
    """Turn sys.exit in the body into ValueError that names the code, so that a run never ends as if it was finished."""
    try:
        yield
    except SystemExit as end:
        raise ValueError(
            f"{code} called sys.exit({'' if end.code is None else repr(end.code)}), which would end the run: raise an "
            "error instead"
        ) from end
