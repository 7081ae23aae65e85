"""``reverie cluster``: one gateway's models on many machines."""

from __future__ import annotations

import typer

from reverie.cli.cluster_node import TokenFile, head, join
from reverie.cli.cluster_view import drain, resume, status

_EPILOG = """\b
Two machines are a cluster after:
  reverie cluster head                 on the first: it says what to do next
  reverie cluster token                on the first: the token, for the second
  reverie cluster join HOST            on the second
  reverie cluster status               machines, engines, and what is missing
"""

app = typer.Typer(
    name="cluster",
    help="Run models on many machines: docs/cluster.md.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command(short_help="Start a cluster: run its head on this machine.")(head)
app.command(short_help="Make this machine a part of a cluster.")(join)
app.command(short_help="Say how a cluster is doing: machines, engines, models.")(status)
app.command(short_help="Take a machine's engines away, without ending an answer.")(drain)
app.command(short_help="Let a drained machine have engines again.")(resume)


@app.command(short_help="Print the cluster's token, which is secret.")
def token(token_file: TokenFile = None) -> None:
    """Print the cluster's token. Who has it can run programs on all machines of the cluster.

    Example: reverie cluster token | ssh HOST 'umask 77; cat > token'
    """
    from reverie.cluster.token import read_token

    typer.echo(read_token(token_file))
