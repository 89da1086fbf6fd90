"""The command `taggen`: tagging and training without Kafka. Exit codes: 0 done, 1 it failed, 2 wrong usage or data.

torch takes seconds to import, so the commands do it when they run: --help need not wait for it.
"""

import typer

from taggen.cli.evaluate import evaluate
from taggen.cli.split import split
from taggen.cli.tag import tag
from taggen.cli.train import train

app = typer.Typer(
    help="Tag marketplace listings with a quantised encoder and a LoRA adapter; no Kafka needed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (tag, split, train, evaluate):
    app.command()(command)
