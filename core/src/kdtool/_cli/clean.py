"""`kdtool clean`."""

from __future__ import annotations

import click

from kdtool._cli.options import store_option
from kdtool._estimate.machine import size


@click.command()
@store_option
@click.option("--yes", is_flag=True, help="Free it; without this it is only shown.")
def clean(store: str | None, yes: bool) -> None:
    """Show or delete unused files in the shared store.

    A run needs what its recipe led to last; a run whose folder is gone needs nothing.
    """
    from kdtool._store.clean import clean as clean_store
    from kdtool._store.shared_store import store_folder

    folder = store_folder(store)
    done = clean_store(folder, remove=yes)
    for item in done.found:
        click.echo(f"{size(item.bytes):>9}  {item.path}  ({done.left.get(item.path) or item.why})")
    freed = size(sum(item.bytes for item in done.found if item.path not in done.left))
    total = f"of {size(done.total)} in {folder} ({done.runs} run{'s' * (done.runs != 1)})"
    if not done.found:
        click.echo(f"Nothing to free: all {total} is needed.")
    elif yes:
        click.echo(f"Freed {freed} {total}.")
    else:
        click.echo(f"{freed} {total}. To free them: kdtool clean{f' --store {folder}' if store else ''} --yes")
