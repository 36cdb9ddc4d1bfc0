"""Record on an exception which component raised it.

Guards around hooks blame the component that they call; the innermost one wins. The engine blames a component for its
result, if that fails later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kdtool._contract.run_info import Owner
from kdtool._errors import PluginError, is_interrupt

__all__ = ["blame", "note_owner", "owner_of"]


@contextmanager
def blame(owner: Owner | None, hook: str) -> Iterator[None]:
    """Note on any exception from the block that `owner` raised it in `hook`, as `note_owner` does."""
    try:
        try:
            yield
        except SystemExit as error:
            raise PluginError(f"tried to end the process by sys.exit({error.code!r})") from error
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        note_owner(error, owner, hook)
        raise


def note_owner(error: BaseException, owner: Owner | None, hook: str) -> None:
    """Note on an exception that `owner` raised it in `hook`, unless it already names a component or is Ctrl-C."""
    if owner is not None and owner_of(error) is None and not is_interrupt(error):
        notes = [*getattr(error, "__notes__", ()), f"raised by {owner} in {hook}"]
        vars(error).update(__kdtool_owner__=owner, __notes__=notes)  # also if the class refuses to be changed


def owner_of(error: BaseException) -> Owner | None:
    """Return the component that raised `error`, if one did."""
    owner = getattr(error, "__kdtool_owner__", None)
    return owner if isinstance(owner, Owner) else None
