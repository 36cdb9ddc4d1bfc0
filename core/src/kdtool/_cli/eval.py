"""`kdtool eval MODEL …`."""

from __future__ import annotations

from typing import Any

import click

from kdtool._cli.options import offline_option, out_option, set_option, store_option
from kdtool._text.terminal import print_first_line


@click.command("eval")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--with", "evaluators", metavar="NAME,NAME", default="", help="Evaluators [default: the recipe's].")
@click.option("--corpus", help="The corpus plugin that gives held-out text [default: the recipe's].")
@click.option(
    "--recipe",
    type=click.Path(dir_okay=False),
    help="A recipe to take text, teacher and evaluators from [default: the recipe of the first run among the models].",
)
@set_option
@click.option("--name", help="The run's name [default: eval and the names of the models].")
@out_option
@store_option
@offline_option
def evaluate(models: tuple[str, ...], evaluators: str, settings: dict[str, str], **options: Any) -> None:
    """Measure existing models, and compare them.

    Nothing is trained. A MODEL is a model's folder, an exported file, or a run (its name or folder), whose student is
    measured with all its seeds. NAME=MODEL gives it a name. Teachers are measured as well, even without a MODEL: --set
    teacher.use=NAME. To leave out the recipe's: --set teacher=false. If it was interrupted, the same command resumes.
    """
    print_first_line("reading plugins …")
    from kdtool._cli.compare import by_arm, differences, value_table, verdict
    from kdtool._contract.reporting import where
    from kdtool._evaluate.evaluate import evaluate as evaluate_models

    wanted = [name.strip() for name in evaluators.split(",") if name.strip()]
    results = evaluate_models(models, wanted, settings, **options)
    shown = [verdict(results.verdict, results.comparisons), value_table(by_arm(results.values))]
    click.echo("\n\n".join(["", *shown, *differences(results.comparisons, [results.values]), *results.notes]))
    click.echo(f"\n{where(results)}")
