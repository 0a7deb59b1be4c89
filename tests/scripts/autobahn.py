#!/usr/bin/env python3
"""The Autobahn test suite's WebSocket cases, in kosoku's runner, and an echo server for them.

  autobahn.py serve                    prints the address at which it echoes
  autobahn.py run HOST:PORT [CASE...]  runs cases (globs; all by default) against it

The last line of a run is 'N passed, M failed'.
"""

import asyncio
import logging
import os
import sys

# Without a proxy in between, the server fails this one as well: it takes a close within a message for
# an error.
NOT_THE_PROXYS = ["7.1.5"]


async def serve():
    # Cases cut messages of megabytes into pieces of 64 octets.
    os.environ["WEBSOCKETS_MAX_FRAGMENTS"] = "1000000"
    from websockets.asyncio.server import serve as listen

    logging.getLogger("websockets").setLevel(logging.CRITICAL)

    async def echo(socket):
        async for message in socket:
            await socket.send(message)

    async with listen(echo, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
        host, port = server.sockets[0].getsockname()
        print(f"{host}:{port}")
        await server.serve_forever()


async def run(address, cases):
    from kosoku import FailureError, run_fuzzingclient

    try:
        results = await run_fuzzingclient(address, cases or None, NOT_THE_PROXYS, concurrency=4)
        failed = []
    except FailureError as failure:
        results, failed = failure.results, [r for r in failure.results if not r.passed]
    for result in failed:
        print(
            f"FAILED {result.case_id}: {result.behavior.value}, close {result.behavior_close.value}:"
            f" {result.result} {result.result_close}"
        )
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        status = asyncio.run(run(sys.argv[2], sys.argv[3:]))
        sys.stdout.flush()
        # The runner's threads abort the interpreter when it takes itself apart while they still run. All
        # is said by now: leave without that.
        os._exit(status)
