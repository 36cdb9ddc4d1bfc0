"""Record on an exception which component raised it.

Guards around hooks blame the component that they call; the innermost one wins. The engine blames a component for its
result, if that fails later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kdtool._contract.run_info import Owner
from kdtool._errors import PluginError, is_interrupt

__all__ = ["blame", "owner_of"]


@contextmanager
def blame(owner: Owner | None, hook: str) -> Iterator[None]:
    """Note on an exception from the block that `owner` raised it in `hook`, unless it already names a component.

    Ctrl-C is left as it is.
    """
    try:
        try:
            yield
        except SystemExit as error:
            raise PluginError(f"tried to end the process by sys.exit({error.code!r})") from error
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if owner is not None and owner_of(error) is None and not is_interrupt(error):
            notes = [*getattr(error, "__notes__", ()), f"raised by {owner} in {hook}"]
            vars(error).update(__kdtool_owner__=owner, __notes__=notes)  # also where the class refuses to be changed
        raise


def owner_of(error: BaseException) -> Owner | None:
    """Return the component that raised `error`, if one did."""
    owner = getattr(error, "__kdtool_owner__", None)
    return owner if isinstance(owner, Owner) else None
