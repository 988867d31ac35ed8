"""systemd's notification protocol: ready, alive, stopping, by datagrams to a socket that the environment names.

Source: sd_notify(3), sd_watchdog_enabled(3). Its library would be a dependency for these few lines.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping

log = logging.getLogger(__name__)


class Systemd:
    """Reports the state of the service to systemd; does nothing where systemd did not start it.

    Args:
        environment: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are taken out of it: they are not for children.
        clock: seconds, monotonic.
    """

    def __init__(self, environment: MutableMapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        address = environment.pop("NOTIFY_SOCKET", "")
        period_us = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        # "@" stands for the zero byte of Linux's abstract addresses.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        is_ours = not pid or pid == str(os.getpid())
        # Half of what is allowed, as sd_watchdog_enabled(3) recommends.
        self._every_s = int(period_us) / 2e6 if is_ours and period_us.isdecimal() and int(period_us) else None
        self._last = float("-inf")
        self._is_ready = self._has_failed = False

    def ready(self) -> None:
        """Says that the service answers; once, and again only if the datagram could not be sent."""
        if not self._is_ready:
            self._is_ready = self._send("READY=1")

    def alive(self) -> None:
        """Says that the supervisor's loop runs; at most as often as the watchdog asks for."""
        is_due = self._every_s is not None and self._clock() - self._last >= self._every_s
        if is_due and self._send("WATCHDOG=1"):
            self._last = self._clock()

    def stopping(self) -> None:
        """Says that the service ends because of a signal."""
        self._send("STOPPING=1")

    def _send(self, state: str) -> bool:
        """True where it was sent, or where systemd did not start the service; a full queue is not waited for."""
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
                # A supervisor that waited for systemd would fall silent for the wrong reason.
                link.setblocking(False)
                link.sendto(state.encode(), self._address)
        except OSError as error:
            if not self._has_failed:
                log.warning("systemd did not get %s: %s", state, error)
            self._has_failed = True
            return False
        self._has_failed = False
        return True
