"""Open the remote level of a store, which a plugin provides."""

from __future__ import annotations

from pathlib import Path

from kdtool._errors import UsageError
from kdtool._plugins.distributions import STORES, points
from kdtool._plugins.importing import import_point
from kdtool._plugins.project_packages import install_command
from kdtool._store.remote import Remote, address_of


def refuse_network(store: Path) -> None:
    """Refuse a store that needs a network.

    Raises:
        UsageError: it is in a bucket.
    """
    if not (address_of(store) or "file://").startswith("file://"):
        raise UsageError(
            f"--store {address_of(store)} needs a network, which --offline forbids; leave out one of the two"
        )


def refuse_executor(store: Path) -> None:
    """Refuse an executor with a remote store: each worker would hold separate leases, and upload what it makes.

    Raises:
        UsageError: the store is a remote one.
    """
    if address := address_of(store):
        raise UsageError(
            f"--store {address} is a remote store, which `executor` cannot use; it needs a folder that all machines share: "
            "choose such a --store, or leave out `executor`"
        )


def open_remote(store: Path) -> Remote:
    """Return the remote level of the store with the local folder `store`, or an empty one.

    Raises:
        UsageError: no plugin for remote stores is installed.
    """
    address = address_of(store)
    if address is None:
        return Remote()
    point = next((point for point in points() if point.group == STORES), None)
    if point is None:
        package = f"kdtool-object-store[{address.partition('://')[0]}]"
        raise UsageError(
            f"--store {address} is not a local folder, and the package for remote stores is not installed; get it with: "
            f"{install_command(package)}"
        )
    remote: Remote = import_point("store", point.name, point)[0](address, store)
    return remote
