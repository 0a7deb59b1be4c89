#!/usr/bin/env python3
"""The Autobahn test suite's WebSocket cases, in kosoku's runner, and an echo server for them.

  autobahn.py serve                    prints the address at which it echoes
  autobahn.py run HOST:PORT [CASE...]  runs cases (globs; all by default) against it

The last line of a run is 'N passed, M failed'.
"""

import asyncio
import os
import sys

READ = 1 << 18


class Echo:
    """One connection. The library says what frames mean; that messages are sent back, whole and in
    order, is all there is here."""

    def __init__(self, reader, writer):
        from wsproto import ConnectionType, WSConnection

        self.reader, self.writer = reader, writer
        self.socket = WSConnection(ConnectionType.SERVER)
        self.message = []

    async def serve(self):
        try:
            while octets := await self.reader.read(READ):
                self.socket.receive_data(octets)
                for event in self.socket.events():
                    self.answer(event)
                await self.writer.drain()
                if self.is_over():
                    break
        except ConnectionError:
            pass  # It has no need of an answer any more.
        self.writer.close()

    def answer(self, event):
        from wsproto.events import AcceptConnection, CloseConnection, Message, Ping, Request
        from wsproto.extensions import PerMessageDeflate

        if isinstance(event, Request):
            self.send(AcceptConnection(extensions=[PerMessageDeflate()]))
        elif isinstance(event, Ping):
            self.send(event.response())
        elif isinstance(event, CloseConnection):
            # The client's, or what the library makes of a fault of the client's.
            if not self.is_over():
                self.send(event.response())
        elif isinstance(event, Message):
            self.message.append(event.data)
            if event.message_finished:
                whole = type(event.data)().join(self.message)
                self.message = []
                self.send(type(event)(data=whole))

    def send(self, event):
        self.writer.write(self.socket.send(event))

    def is_over(self):
        return self.socket.state.name in ("CLOSED", "LOCAL_CLOSING")


async def serve():
    async def connected(reader, writer):
        await Echo(reader, writer).serve()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=READ)
    host, port = server.sockets[0].getsockname()
    print(f"{host}:{port}")
    await server.serve_forever()


async def run(address, cases):
    from kosoku import FailureError, run_fuzzingclient

    try:
        results = await run_fuzzingclient(address, cases or None, [], concurrency=4)
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
