"""`onboard token`: makes, lists and removes access tokens."""

from __future__ import annotations

import argparse
import json
import sys

_AT_START = "a service that runs here reads it when it is started again"


def add_token_commands(parser: argparse.ArgumentParser) -> None:
    """Adds its verbs."""
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    add = verbs.add_parser("add", help="make a token; it is printed once")
    add.add_argument("name", help="name of the holder")
    add.add_argument(
        "--role", action="append", required=True, dest="roles", metavar="ROLE",
        help="ingest, ground, telemetry, uplink or operator; may be repeated",
    )  # fmt: skip
    add.set_defaults(command=_add)
    listing = verbs.add_parser("list", help="names and roles of the tokens there are")
    listing.add_argument("--json", action="store_true", help="machine-readable")
    listing.set_defaults(command=_list)
    remove = verbs.add_parser("remove", help="forget a token")
    remove.add_argument("name")
    remove.set_defaults(command=_remove)


def _add(arguments: argparse.Namespace) -> int:
    from onboard.api.auth import add_token
    from onboard.settings import read_settings

    path = read_settings().tokens_path
    print(add_token(path, arguments.name, arguments.roles), flush=True)
    print(f"onboard: kept, hashed, in {path}; {_AT_START}", file=sys.stderr)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from onboard.api.auth import read_tokens
    from onboard.settings import read_settings

    path = read_settings().tokens_path
    roles = read_tokens(path).roles()
    if arguments.json:
        print(json.dumps(roles))
        return 0
    if not roles:
        print(f"onboard: no tokens in {path}: the service listens on loopback only, for everyone", file=sys.stderr)
    width = max(map(len, roles), default=0)
    for name, names in roles.items():
        print(f"{name:<{width}}  {', '.join(names)}")
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    from onboard.api.auth import remove_token
    from onboard.settings import read_settings

    path = read_settings().tokens_path
    remove_token(path, arguments.name)
    print(f"onboard: removed from {path}; {_AT_START}", file=sys.stderr)
    return 0
