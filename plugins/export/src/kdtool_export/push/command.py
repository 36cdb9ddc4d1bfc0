"""The click command `kdtool push`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import kdtool
from kdtool._cli.shared import json_option, out_option

if TYPE_CHECKING:
    from kdtool_export.push.checks import Check
    from kdtool_export.push.publication import Publication

_TO = "Repository [default: the run's name, in the user's account]."
_LICENCE = "Publish the text of this licence, too; repeatable."


@click.command("push")
@click.argument("run")
@click.option("--to", default="", metavar="OWNER/NAME", help=_TO)
@click.option("--file", "only", multiple=True, metavar="NAME", help="Publish this exporter's file only; repeatable.")
@click.option("--licence", "licences", type=click.Path(path_type=Path), multiple=True, metavar="FILE", help=_LICENCE)
@out_option
@click.option("--yes", is_flag=True, help="Upload; without it, only show what would be uploaded.")
@click.option("--public", is_flag=True, help="Let everyone see the repository [default: private].")
@click.option("--branch", default="main", show_default=True, help="Branch that gets the commit.")
@click.option("--replace", is_flag=True, help="Overwrite files of a repository that did not come from this run.")
@click.option("--space", is_flag=True, help="Publish the page of the exporter web as a static Space.")
@click.option("--permitted", is_flag=True, help="State that you may publish although a licence forbids it.")
@json_option
def push(
    run: str,
    to: str,
    only: tuple[str, ...],
    licences: tuple[Path, ...],
    out: str,
    yes: bool,
    public: bool,
    branch: str,
    replace: bool,
    space: bool,
    permitted: bool,
    as_json: bool,
) -> None:
    """Publish exported files on the Hugging Face Hub.

    RUN is the name or the folder of a finished run; the files get a model card. Nothing is uploaded without --yes. The
    upload is one commit: a repository holds a whole model or none, and a killed upload continues with the same command. The
    token is read from HF_TOKEN or from `hf auth login`.

    \b
    Example:  kdtool push quickstart --to you/student --yes
    """  # noqa: D301 - click reads backspaces
    from kdtool_export.push.checks import check
    from kdtool_export.push.hub import upload
    from kdtool_export.push.publication import plan_push

    publication = plan_push(run, to=to, only=only, licences=licences, out=out, space=space)
    checks = check(publication, permitted=permitted)
    if as_json and not yes:
        click.echo(json.dumps(_plain(publication, checks), indent=1))
    elif not as_json:
        kdtool.say("\n".join(_lines(publication, checks, public=public, branch=branch)))
    stops = [entry for entry in checks if entry.stops]
    if stops:
        raise kdtool.UsageError("; ".join(entry.text for entry in stops))
    if not yes:
        kdtool.say("nothing was uploaded; add --yes to publish", err=True)
        return
    with kdtool.waiting("publishing …"):
        pushed = upload(publication, public=public, branch=branch, replace=replace)
    if as_json:
        done = {"url": pushed.url, "commit": pushed.commit, "changed": pushed.changed}
        click.echo(json.dumps({**_plain(publication, checks), **done}, indent=1))
    else:
        outcome = "published" if pushed.changed else "nothing changed"
        kdtool.say(f"{outcome}: {pushed.url} (commit {pushed.commit[:12]})")


def _plain(publication: Publication, checks: list[Check]) -> dict[str, object]:
    return {
        "repository": publication.repository("OWNER"),
        "files": publication.sizes(),
        "checks": [{"text": entry.text, "stops": entry.stops} for entry in checks],
    }


def _lines(publication: Publication, checks: list[Check], *, public: bool, branch: str) -> Iterator[str]:
    sizes = publication.sizes()
    kind = "static Space" if publication.is_space else "repository "
    yield f"{kind} {publication.repository('OWNER')} ({'public' if public else 'private'}), branch {branch}"
    yield f"files       {len(sizes)}, {sum(sizes.values()):,} bytes"
    for path, count in sizes.items():
        yield f"  {count:>15,}  {path}"
    yield "checks" + ("" if checks else "      nothing found")
    for entry in checks:
        yield f"  {'stop' if entry.stops else 'note'}: {entry.text}"
