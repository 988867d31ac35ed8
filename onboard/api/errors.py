"""Why a request is refused.

RequestRefused
├── BadRequest          mend the request (400)
│   └── DigestMismatch  the bytes are not those that were promised: send them again
├── NotAuthenticated    give a token (401)
├── NotAllowed          another token is needed (403)
├── OtherOrigin         a page of another origin may only read (403)
├── NotFound            nothing is kept under this name (404)
│   └── Vanished        it was kept, and its file is gone from the disk
├── Conflict            what was sent contradicts what is here (409)
├── TooLarge            more bytes than are taken (413)
├── NotATiff            another kind of file (415)
├── RangeBeyond         the file ends before the range (416)
├── TooMany             wait, then try again (429)
└── Overloaded          the machine cannot open another file or connection: wait, then try again (503)
"""

from __future__ import annotations


class RequestRefused(Exception):
    """Root; ``detail`` says what was given and what to do."""

    def __init__(self, detail: str) -> None:
        self.detail = detail
        super().__init__(detail)


class BadRequest(RequestRefused):
    """The request contradicts itself or the interface."""


class DigestMismatch(BadRequest):
    """The bytes that came are not those whose digest was given."""

    def __init__(self, promised: str, received: str) -> None:
        self.promised, self.received = promised, received
        super().__init__(f"the bytes received have SHA-256 {received}, {promised} was promised; send the scene again")


class NotAuthenticated(RequestRefused):
    """No token, or one that is not known; ``challenge`` is how to give it (RFC 9110, 11.6.1)."""

    challenge = "Bearer"


class NotAllowed(RequestRefused):
    """The token's roles do not reach this far."""

    def __init__(self, needed: str, has: frozenset[str]) -> None:
        self.needed, self.has = needed, has
        roles = ", ".join(sorted(has)) or "no role"
        super().__init__(f"this needs the role {needed}, the token has {roles}; ask the operator for another token")


class OtherOrigin(RequestRefused):
    """A browser sent it for a page of another origin."""

    def __init__(self) -> None:
        super().__init__("a page of another origin may read here at most; use the service's own address, or a program")


class NotFound(RequestRefused):
    """There is no such thing here.

    Args:
        kind: of thing, in a word.
        name: asked for.
        listed_by: path that lists those there are; the kind's plural where not given.
    """

    def __init__(self, kind: str, name: str, listed_by: str | None = None) -> None:
        self.kind, self.name = kind, name
        super().__init__(f"there is no {kind} {name!r} here; GET {listed_by or f'/{kind}s'} lists them")


class Vanished(NotFound):
    """The ledger knows the file, the disk has it no more."""

    def __init__(self, name: str) -> None:
        self.kind, self.name = "file", name
        # Not NotFound's own text: it would point to a list of files, which there is not.
        RequestRefused.__init__(
            self, f"{name} is gone from the disk; the next start makes the map again, or says that its scene is needed"
        )


class Conflict(RequestRefused):
    """The request contradicts what is stored here."""


class TooLarge(RequestRefused):
    """The body has more bytes than the service takes."""

    def __init__(self, limit: int, declared: int | None) -> None:
        self.limit, self.declared = limit, declared
        problem = (
            f"the body declares {declared:,} bytes" if declared is not None else "the body goes on beyond the limit"
        )
        super().__init__(f"{problem}, {limit:,} are taken at most; cut the scene into smaller ones")


class NotATiff(RequestRefused):
    """The body is of another media type, or does not begin as a TIFF does."""


class RangeBeyond(RequestRefused):
    """No byte of the range asked for is in the file, which has ``size`` bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(f"the file has {size:,} bytes, the range begins behind them; ask for an earlier one")


class TooMany(RequestRefused):
    """Requests or uploads come faster than they are taken.

    Attributes:
        retry_after_s: whole seconds after which another try makes sense.
    """

    def __init__(self, detail: str, retry_after_s: int) -> None:
        # 0 would have a client try again at once.
        self.retry_after_s = max(1, retry_after_s)
        super().__init__(f"{detail}; try again in {self.retry_after_s} s")


class Overloaded(TooMany):
    """The machine has no descriptor left to serve this."""

    def __init__(self) -> None:
        super().__init__("the service cannot open another file now", 5)
