"""`python -m onboard.alive`: 0 if the service on this machine answers, else 1 with one line. For healthchecks.

Standard library and settings only: a check every half minute must cost nothing.
"""

from __future__ import annotations

import ssl
import sys
import urllib.error
import urllib.request

from onboard.errors import OnboardError
from onboard.settings import Settings, read_settings

# Under the 5 s after which Docker gives up a healthcheck (docker/*.Dockerfile).
_PATIENCE_S = 4.0


def problem(settings: Settings) -> str | None:
    """Why it does not answer; None if it does."""
    scheme = "http" if settings.tls_certificate is None else "https"
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - asked, not bound
    url = f"{scheme}://{host}:{settings.port}/health/live"
    # Its own certificate is for the name by which the ground knows it; here only the answer counts.
    context = ssl._create_unverified_context() if scheme == "https" else None  # noqa: S323
    if context is not None and settings.tls_client_ca is not None and settings.tls_key is not None:
        context.load_cert_chain(str(settings.tls_certificate), str(settings.tls_key))
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE_S, context=context) as answer:  # noqa: S310 - http(s) only
            return None if answer.status == 200 else f"{url} answers {answer.status}"
    except (urllib.error.URLError, OSError, ValueError) as error:
        return f"{url}: {error}"


def main() -> int:
    """Runs the check."""
    try:
        message = problem(read_settings())
    except OnboardError as error:
        message = str(error)
    if message is not None:
        print(message, file=sys.stderr)
    return 0 if message is None else 1


if __name__ == "__main__":
    sys.exit(main())
