#!/bin/sh
# uvicorn 0.54.0 (Python 3.10 or later, Linux), httptools and h11 alike.
#
# A client sends the beginning of an upload and the connection ends. The bytes have arrived, and the server has parsed
# them. But if the application had not asked for them yet, its first receive() gives http.disconnect and no body: what
# came is lost. An application that asked before the end gets them. So "what came before the connection broke stays", as
# uploads that continue on a bad link want it, holds only for bytes that were read in time: an application that first asks
# a database what it wants loses the whole beginning of each short attempt.
#
# Output of 2026-11-29:
#   h11: asked at once 600 bytes, asked late 0 bytes (http.disconnect)
#   httptools: asked at once 600 bytes, asked late 0 bytes (http.disconnect)
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0
cat > "$work/cut.py" <<'PY'
"""Counts the bytes of a cut upload that reach an application, which asks for them at once or late."""

import asyncio
import socket
import sys

import uvicorn

HEAD = b"PUT /part HTTP/1.1\r\nHost: station\r\nContent-Length: 1000\r\n\r\n"
SENT = 600


async def got(http: str, wait_s: float) -> tuple[int, str]:
    ended: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

    async def application(scope, receive, send):
        await asyncio.sleep(wait_s)
        count = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                ended.set_result((count, message["type"]))
                return
            count += len(message["body"])

    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application, http=http, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:
        await asyncio.sleep(0.01)
    _, writer = await asyncio.open_connection(*listening.getsockname())
    writer.write(HEAD + b"x" * SENT)
    await writer.drain()
    await asyncio.sleep(0.3)  # all has arrived; who asks at once has read it
    writer.close()
    result = await asyncio.wait_for(ended, 10)
    server.should_exit = True
    await serving
    return result


right = True
for http in ("h11", "httptools"):
    (early, _), (late, kind) = asyncio.run(got(http, 0.0)), asyncio.run(got(http, 0.6))
    print(f"{http}: asked at once {early} bytes, asked late {late} bytes ({kind})")
    right = right and (early, late, kind) == (SENT, 0, "http.disconnect")
sys.exit(0 if right else 1)
PY
"$work/venv/bin/python" "$work/cut.py" && echo "as described" || { echo "changed: see the output above"; exit 1; }
