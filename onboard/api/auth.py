"""Authorization: bearer tokens with roles, stored as hashes.

A token is 256 random bits, so its plain SHA-256 is as good as a slow hash: there is nothing to guess. No token carries
a date: aboard the clock may be wrong by years, and the ground must never be locked out by it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engines.files import replace_file
from onboard.api.errors import NotAllowed, NotAuthenticated
from onboard.errors import OptionsRefused

ROLES: Final = ("ingest", "ground", "telemetry", "uplink", "operator")
"""Deliver scenes; pull maps and give receipts; read telemetry; send models up; everything, erasing included."""
_LOCAL_NAME: Final = "local"


@dataclass(frozen=True)
class Caller:
    """The sender of a request.

    Attributes:
        name: of the token, for the log.
        roles: of :data:`ROLES`.
    """

    name: str
    roles: frozenset[str]

    def must_be(self, *roles: str) -> None:
        """Passes a caller with one of these roles, and the operator.

        Raises:
            NotAllowed: it has none of them.
        """
        if not self.roles.intersection({*roles, "operator"}):
            raise NotAllowed(" or ".join(roles or ("operator",)), self.roles)


@dataclass(frozen=True)
class Token:
    """A token as it is kept: its name, its roles, and the hex SHA-256 of the secret."""

    name: str
    roles: frozenset[str]
    sha256: str

    def __post_init__(self) -> None:
        unknown = self.roles.difference(ROLES)
        if unknown or not self.roles:
            raise OptionsRefused(
                f"token {self.name!r} has roles {sorted(self.roles)}", f"give it some of {', '.join(ROLES)}"
            )


class Tokens:
    """All tokens the service knows; with none of them every caller is a local one and may do everything."""

    def __init__(self, tokens: Iterable[Token] = ()) -> None:
        self._tokens = tuple(tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def roles(self) -> dict[str, list[str]]:
        """Roles by the tokens' names, both in order; a secret is nowhere but with its owner."""
        return {token.name: sorted(token.roles) for token in sorted(self._tokens, key=lambda token: token.name)}

    def caller_of(self, authorization: str | None) -> Caller:
        """The caller with this Authorization header.

        Raises:
            NotAuthenticated: there is none, or its token is not known.
        """
        # `check_binding` lets a service without tokens listen on loopback alone.
        if not self._tokens:
            return Caller(_LOCAL_NAME, frozenset({"operator"}))
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise NotAuthenticated("a token is needed; send it as Authorization: Bearer TOKEN")
        digest = _digest(secret.strip())
        match: Token | None = None
        # Every token is compared, each in constant time: an answer's time tells nothing of which one was near.
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, digest):
                match = token
        if match is None:
            raise NotAuthenticated("this token is not known here; `onboard token add` makes one")
        return Caller(match.name, match.roles)


def read_tokens(path: Path) -> Tokens:
    """Tokens of a file of ``{"tokens": [{"name", "roles", "sha256"}, ...]}``; none where there is no file.

    Raises:
        OptionsRefused: the file cannot be read or is something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Tokens(Token(row["name"], frozenset(row["roles"]), row["sha256"]) for row in document["tokens"])
    # No file, no tokens: whether the service may run without them `check_binding` says.
    except FileNotFoundError:
        return Tokens()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionsRefused(
            f"the tokens in {path} cannot be read ({error})", "correct it, or remove it and use `onboard token add`"
        ) from error


def add_token(path: Path, name: str, roles: Iterable[str]) -> str:
    """Makes a token, keeps its hash in the file (mode 0600, replaced whole), and gives the secret: it is shown once.

    Raises:
        OptionsRefused: the name is taken, or a role is not known.
    """
    tokens = read_tokens(path)._tokens
    if any(token.name == name for token in tokens):
        raise OptionsRefused(f"there is a token called {name!r} already", "choose another name, or remove that one")
    # 32 random bytes: the 256 bits that make a plain hash enough.
    secret = secrets.token_urlsafe(32)
    _write(path, [*tokens, Token(name, frozenset(roles), _digest(secret))])
    return secret


def remove_token(path: Path, name: str) -> None:
    """Forgets a token.

    Raises:
        OptionsRefused: there is none of that name.
    """
    tokens = read_tokens(path)._tokens
    left = [token for token in tokens if token.name != name]
    if len(left) == len(tokens):
        known = ", ".join(token.name for token in tokens) or "none"
        raise OptionsRefused(f"there is no token called {name!r}", f"there are: {known}")
    _write(path, left)


def check_binding(host: str, tokens: Tokens) -> None:
    """Without tokens the service may only be reached from this machine.

    Raises:
        OptionsRefused: it would be open to others.
    """
    if tokens or _is_loopback(host):
        return
    raise OptionsRefused(
        f"ONBOARD_HOST is {host} and there are no tokens: anybody could command this satellite",
        "make tokens with `onboard token add`, or bind to 127.0.0.1",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _write(path: Path, tokens: Iterable[Token]) -> None:
    rows = [{"name": token.name, "roles": sorted(token.roles), "sha256": token.sha256} for token in tokens]
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps({"tokens": rows}, indent=1).encode(), mode=0o600)
