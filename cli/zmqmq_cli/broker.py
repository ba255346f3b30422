"""`zmqmq broker`: run one in the foreground."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from zmqmq_cli.options import Command

app = typer.Typer(add_completion=False, rich_markup_mode=None)


Etcd = Annotated[
    str | None,
    typer.Option(
        "--etcd",
        metavar="HOST:PORT,…",
        help="The etcd that all brokers of the cluster share. [default: none, one broker]",
    ),
]
NodeId = Annotated[
    int | None,
    typer.Option(
        "--node-id", metavar="N", help="Number of this broker in its cluster. [default: 1]"
    ),
]
Rack = Annotated[
    str | None,
    typer.Option("--rack", metavar="NAME", help="What fails together with this broker."),
]
BindPush = Annotated[
    str | None,
    typer.Option(
        "--bind-push",
        metavar="HOST:PORT",
        help="Where to listen for subscribers. [default: the host of --bind, port 5756, or a free "
        "one if --bind moves the other]",
    ),
]
AdvertisePush = Annotated[
    str | None,
    typer.Option(
        "--advertise-push",
        metavar="HOST:PORT",
        help="What subscribers are told to connect to, where it is not the address bound.",
    ),
]
BindPeers = Annotated[
    str | None,
    typer.Option(
        "--bind-peers",
        metavar="HOST:PORT",
        help="Where to listen for other brokers. [default: 127.0.0.1:5757]",
    ),
]
AdvertisePeers = Annotated[
    str | None,
    typer.Option(
        "--advertise-peers",
        metavar="HOST:PORT",
        help="What other brokers are told to connect to, where it is not the address bound.",
    ),
]


@app.command(cls=Command)
def broker(
    *,
    data_dir: Annotated[
        str | None,
        typer.Option(
            "--data-dir",
            metavar="DIR",
            help="Where everything is kept. [default: ~/.local/share/zmqmq]",
        ),
    ] = None,
    bind: Annotated[
        str | None,
        typer.Option(
            "--bind",
            metavar="HOST:PORT",
            help="Where to listen; port 0 takes a free one. [default: 127.0.0.1:5755]",
        ),
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(
            "--advertise",
            metavar="HOST:PORT",
            help="What clients are told to connect to, where it is not the address bound.",
        ),
    ] = None,
    etcd: Etcd = None,
    node_id: NodeId = None,
    rack: Rack = None,
    bind_push: BindPush = None,
    advertise_push: AdvertisePush = None,
    bind_peers: BindPeers = None,
    advertise_peers: AdvertisePeers = None,
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="FILE", help="Settings in TOML (docs/configuration.md)."),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Listen beyond this machine although nothing is encrypted and everybody may "
            "do everything.",
        ),
    ] = False,
) -> int:
    """Run a broker in the foreground.

    Prints one line with `ready` on stdout once it serves. SIGTERM and Ctrl-C drain it: what was
    acknowledged is on disk, what is in flight is finished, then it ends.
    """
    from zmqmq.config.load import load  # not needed for --help
    from zmqmq.runtime.main import run

    named = {
        "broker.data_dir": data_dir,
        "broker.bind": bind,
        "broker.advertise": advertise,
        "broker.insecure": "true" if insecure else None,
        "broker.metadata": None if etcd is None else f"etcd3://{etcd}/zmqmq",
        "broker.id": None if node_id is None else str(node_id),
        "broker.rack": rack,
        "broker.bind_push": bind_push,
        "broker.advertise_push": advertise_push,
        "broker.bind_peers": bind_peers,
        "broker.advertise_peers": advertise_peers,
    }
    flags = {name: value for name, value in named.items() if value is not None}
    return run(load(None if config is None else Path(config), os.environ, flags).config)
