#!/usr/bin/env python3
"""The cases of gRPC's interoperability tests, with grpcio as client and as server.

  grpc_interop.py serve           prints the address at which it serves
  grpc_interop.py run HOST:PORT   runs all cases against it

Messages are plain octets: what is tested is the transport, which does not look into them. A request
begins with a line of words that tells the server what to do. The last line of a run is 'N passed, M
failed'.
"""

import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "grpc.testing.TestService"
SIZES = [31415, 9, 2653, 58979]
REQUESTS = [27182, 8, 1828, 45904]
INITIAL = "x-grpc-test-echo-initial"
TRAILING = "x-grpc-test-echo-trailing-bin"
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
PATIENCE = 60


# The server.


def echo_metadata(context):
    given = dict(context.invocation_metadata())
    if INITIAL in given:
        context.send_initial_metadata(((INITIAL, given[INITIAL]),))
    if TRAILING in given:
        context.set_trailing_metadata(((TRAILING, given[TRAILING]),))


def do(request, context):
    """What a request asks for: `size N`, `status CODE TEXT`, `sleep SECONDS` or nothing."""
    words = request.split(b"\n", 1)[0].decode("utf-8", "replace").split(" ", 2)
    if words[0] == "size":
        return bytes(int(words[1]))
    if words[0] == "status":
        text = request.split(b" ", 2)[2].decode() if len(words) > 2 else ""
        context.abort(next(c for c in grpc.StatusCode if c.value[0] == int(words[1])), text)
    if words[0] == "sleep":
        time.sleep(float(words[1]))
    return b""


def unary(request, context):
    echo_metadata(context)
    return do(request, context)


def streaming_input(requests, context):
    echo_metadata(context)
    return str(sum(len(request) for request in requests)).encode()


def streaming_output(request, context):
    echo_metadata(context)
    for size in request.split():
        yield bytes(int(size))


def full_duplex(requests, context):
    echo_metadata(context)
    for request in requests:
        yield do(request, context)


class Handlers(grpc.GenericRpcHandler):
    def service(self, details):
        kinds = {
            "EmptyCall": grpc.unary_unary_rpc_method_handler(unary),
            "UnaryCall": grpc.unary_unary_rpc_method_handler(unary),
            "StreamingInputCall": grpc.stream_unary_rpc_method_handler(streaming_input),
            "StreamingOutputCall": grpc.unary_stream_rpc_method_handler(streaming_output),
            "FullDuplexCall": grpc.stream_stream_rpc_method_handler(full_duplex),
        }
        service, _, method = details.method.lstrip("/").partition("/")
        return kinds.get(method) if service == SERVICE else None


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64))
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}")
    server.wait_for_termination()


# The client.


class Stub:
    def __init__(self, channel):
        path = lambda method: f"/{SERVICE}/{method}"
        self.channel = channel
        self.empty = channel.unary_unary(path("EmptyCall"))
        self.unary = channel.unary_unary(path("UnaryCall"))
        self.input = channel.stream_unary(path("StreamingInputCall"))
        self.output = channel.unary_stream(path("StreamingOutputCall"))
        self.duplex = channel.stream_stream(path("FullDuplexCall"))
        self.unknown_method = channel.unary_unary(path("UnimplementedCall"))
        self.unknown_service = channel.unary_unary("/grpc.testing.UnimplementedService/Call")


def equal(found, expected):
    assert found == expected, f"{found!r}, not {expected!r}"


def failure(call):
    """The error of a call that must fail."""
    try:
        result = call()
        if hasattr(result, "__iter__") and not isinstance(result, bytes):
            list(result)
    except grpc.RpcError as error:
        return error
    raise AssertionError("it did not fail")


class Open:
    """Requests that are sent one by one."""

    def __init__(self):
        self.ready = threading.Condition()
        self.waiting, self.ended = [], False

    def send(self, request):
        with self.ready:
            self.waiting.append(request)
            self.ready.notify()

    def end(self):
        with self.ready:
            self.ended = True
            self.ready.notify()

    def __iter__(self):
        return self

    def __next__(self):
        with self.ready:
            self.ready.wait_for(lambda: self.waiting or self.ended, PATIENCE)
            if self.waiting:
                return self.waiting.pop(0)
            raise StopIteration


def request(words, size=0):
    return words.encode() + b"\n" + bytes(size)


def empty_unary(stub):
    equal(stub.empty(b"", timeout=PATIENCE), b"")


def large_unary(stub):
    equal(len(stub.unary(request("size 314159", 271828), timeout=PATIENCE)), 314159)


def many_large_unaries_at_once(stub):
    calls = [stub.unary.future(request("size 314159", 271828), timeout=PATIENCE) for _ in range(40)]
    for call in calls:
        equal(len(call.result()), 314159)


def compressed_unary(stub):
    gzip = grpc.Compression.Gzip
    equal(len(stub.unary(request("size 314159", 271828), compression=gzip, timeout=PATIENCE)), 314159)


def client_streaming(stub):
    requests = (bytes(size) for size in REQUESTS)
    equal(stub.input(requests, timeout=PATIENCE), str(sum(REQUESTS)).encode())


def server_streaming(stub):
    sizes = " ".join(map(str, SIZES)).encode()
    equal([len(answer) for answer in stub.output(sizes, timeout=PATIENCE)], SIZES)


def ping_pong(stub):
    requests = Open()
    answers = stub.duplex(requests, timeout=PATIENCE)
    for size, padding in zip(SIZES, REQUESTS):
        requests.send(request(f"size {size}", padding))
        equal(len(next(answers)), size)
    requests.end()
    equal(list(answers), [])


def empty_stream(stub):
    equal(list(stub.duplex(iter(()), timeout=PATIENCE)), [])


def cancel_after_begin(stub):
    requests = Open()
    call = stub.input.future(requests, timeout=PATIENCE)
    call.cancel()
    equal(call.code(), grpc.StatusCode.CANCELLED)
    requests.end()


def cancel_after_first_response(stub):
    requests = Open()
    answers = stub.duplex(requests, timeout=PATIENCE)
    requests.send(request("size 31415"))
    equal(len(next(answers)), 31415)
    answers.cancel()
    equal(failure(lambda: answers).code(), grpc.StatusCode.CANCELLED)
    requests.end()


def timeout_on_sleeping_server(stub):
    requests = Open()
    requests.send(request("sleep 5"))
    error = failure(lambda: stub.duplex(requests, timeout=0.2))
    equal(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    requests.end()


def custom_metadata(stub):
    given = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab"))
    _, call = stub.unary.with_call(request("size 100"), metadata=given, timeout=PATIENCE)
    equal(dict(call.initial_metadata())[INITIAL], "test_initial_metadata_value")
    equal(dict(call.trailing_metadata())[TRAILING], b"\xab\xab\xab")
    answers = stub.duplex(iter([request("size 100")]), metadata=given, timeout=PATIENCE)
    equal([len(answer) for answer in answers], [100])
    equal(dict(answers.initial_metadata())[INITIAL], "test_initial_metadata_value")
    equal(dict(answers.trailing_metadata())[TRAILING], b"\xab\xab\xab")


def status_code_and_message(stub):
    asked = request("status 2 test status message")[:-1]
    for call in (
        lambda: stub.unary(asked, timeout=PATIENCE),
        lambda: stub.duplex(iter([asked]), timeout=PATIENCE),
    ):
        error = failure(call)
        equal((error.code(), error.details()), (grpc.StatusCode.UNKNOWN, "test status message"))


def every_status(stub):
    for code in grpc.StatusCode:
        if code is grpc.StatusCode.OK:
            continue
        error = failure(lambda: stub.unary(f"status {code.value[0]} why".encode(), timeout=PATIENCE))
        equal((error.code(), error.details()), (code, "why"))


def special_status_message(stub):
    error = failure(lambda: stub.unary(f"status 2 {SPECIAL}".encode(), timeout=PATIENCE))
    equal((error.code(), error.details()), (grpc.StatusCode.UNKNOWN, SPECIAL))


def unimplemented_method(stub):
    equal(failure(lambda: stub.unknown_method(b"", timeout=PATIENCE)).code(), grpc.StatusCode.UNIMPLEMENTED)


def unimplemented_service(stub):
    equal(failure(lambda: stub.unknown_service(b"", timeout=PATIENCE)).code(), grpc.StatusCode.UNIMPLEMENTED)


def trailers_only(stub):
    # An answer that begins with its end: status and metadata in one head.
    given = ((TRAILING, b"\x01\x02"),)
    error = failure(lambda: stub.unary(b"status 5 gone", metadata=given, timeout=PATIENCE))
    equal((error.code(), error.details()), (grpc.StatusCode.NOT_FOUND, "gone"))
    equal(dict(error.trailing_metadata())[TRAILING], b"\x01\x02")


def soak(stub):
    for number in range(200):
        equal(len(stub.unary(request(f"size {number}"), timeout=PATIENCE)), number)


CASES = [
    empty_unary,
    large_unary,
    many_large_unaries_at_once,
    compressed_unary,
    client_streaming,
    server_streaming,
    ping_pong,
    empty_stream,
    cancel_after_begin,
    cancel_after_first_response,
    timeout_on_sleeping_server,
    custom_metadata,
    status_code_and_message,
    every_status,
    special_status_message,
    unimplemented_method,
    unimplemented_service,
    trailers_only,
    soak,
    # Once more, after all that was cancelled and refused.
    large_unary,
]


def run(address):
    failed = 0
    # No proxy of the environment between us and the one that is tested.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = Stub(channel)
        for case in CASES:
            try:
                case(stub)
                print(f"ok {case.__name__}")
            except (AssertionError, grpc.RpcError, StopIteration, KeyError) as error:
                failed += 1
                print(f"FAILED {case.__name__}: {error!r}")
    print(f"{len(CASES) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        sys.exit(run(sys.argv[2]))
