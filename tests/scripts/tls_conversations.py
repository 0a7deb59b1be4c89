#!/usr/bin/env python3
"""Conversations that a TLS server must end, or must bear, record by record; by the primitives of tlslite-ng.

  tls_conversations.py run HOST:PORT [require|optional FOLDER]

HOST:PORT speaks TLS 1.2 and 1.3, and HTTP/1 inside. With a folder of clients' certificates and keys HOST:PORT asks
for them, and the conversations are about that. After each conversation an honest client must be served.

The last line of a run is 'N passed, M failed'.
"""

import os
import socket
import struct
import sys

from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.constants import AlertDescription

PATIENCE = 20

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
CLIENT_HELLO, SERVER_HELLO, CERTIFICATE = 1, 2, 11
CERTIFICATE_VERIFY, CLIENT_KEY_EXCHANGE, FINISHED = 15, 16, 20

TLS_1_2 = b"\x03\x03"
AES_128_GCM_SHA256 = 0x1301
ECDHE_ECDSA_AES_128, ECDHE_RSA_AES_128 = 0xC02B, 0xC02F
SUITES = [AES_128_GCM_SHA256, ECDHE_ECDSA_AES_128, ECDHE_RSA_AES_128]
X25519, SECP256R1 = 29, 23
SIGNATURES = [0x0403, 0x0804, 0x0401]

# What ends the server's random value if it could do TLS 1.3 and was asked for 1.2 (RFC 8446, 4.1.3).
DOWNGRADE = b"DOWNGRD\x01"

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"


def vector(octets, width):
    return len(octets).to_bytes(width, "big") + octets


def words(numbers):
    return b"".join(struct.pack(">H", number) for number in numbers)


def extension(kind, octets=b""):
    return struct.pack(">H", kind) + vector(octets, 2)


def record(kind, octets, version=TLS_1_2):
    return bytes([kind]) + version + vector(octets, 2)


def message(kind, octets):
    return bytes([kind]) + vector(octets, 3)


def in_records(octets):
    """A message of the handshake in records of 16 000 octets."""
    return b"".join(record(HANDSHAKE, octets[at : at + 16000]) for at in range(0, len(octets), 16000))


def point(length):
    return bytes([9]) * length


def x25519_share():
    # A point of any value will do where nothing is decrypted.
    return (X25519, bytes([9]) + bytes(31))


def hello(
    versions=(0x0304, 0x0303),
    suites=SUITES,
    shares=None,
    groups=(X25519, SECP256R1),
    more=b"",
    legacy=TLS_1_2,
    compression=b"\0",
    session=bytes(32),
    left_out=(),
):
    """A ClientHello. Extensions of the numbers in left_out are left out."""
    shares = [x25519_share()] if shares is None else shares
    known = {
        0: vector(b"\0" + vector(b"a.test", 2), 2),
        10: vector(words(groups), 2),
        11: vector(b"\0", 1),
        13: vector(words(SIGNATURES), 2),
        23: b"",
        0xFF01: b"\0",
        43: vector(words(versions), 1),
        51: vector(b"".join(struct.pack(">H", g) + vector(p, 2) for g, p in shares), 2),
    }
    if not any(version >= 0x0304 for version in versions):
        left_out = (*left_out, 43, 51)
    extensions = b"".join(extension(k, v) for k, v in known.items() if k not in left_out) + more
    body = legacy + os.urandom(32) + vector(session, 1) + vector(words(suites), 2)
    return message(CLIENT_HELLO, body + vector(compression, 1) + vector(extensions, 2))


class Peer:
    """Octets and records to a server, and what comes of them."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = b""

    def send(self, octets):
        try:
            self.socket.sendall(octets)
        except OSError:
            pass  # It has gone; what it said first is still there.

    def hello(self, version=b"\x03\x01", **choices):
        self.send(record(HANDSHAKE, hello(**choices), version))

    def exactly(self, count):
        while len(self.input) < count:
            try:
                more = self.socket.recv(65536)
            except ConnectionError:
                return None
            if not more:
                return None
            self.input += more
        taken, self.input = self.input[:count], self.input[count:]
        return taken

    def record(self):
        """Type and content of the next record; None at the end."""
        header = self.exactly(5)
        if header is None:
            return None
        content = self.exactly(int.from_bytes(header[3:], "big"))
        return None if content is None else (header[0], content)

    def end(self):
        """The description of the alert with which the server ends, or None if it ends without; whatever it
        sends before is dropped."""
        alert = None
        while (came := self.record()) is not None:
            if came[0] == ALERT and len(came[1]) == 2:
                alert = came[1][1]
        return alert

    def server_hello(self):
        came = self.record()
        assert came is not None and came[0] == HANDSHAKE, f"no ServerHello: {came}"
        assert came[1][0] == SERVER_HELLO, f"no ServerHello: {came[1][:1]}"
        return came[1][4:]


# Every conversation: what it is about, what it does with a peer, and which alerts may end it: None stands for an
# end without one. A conversation without alerts judges by itself.
CONVERSATIONS = []


def conversation(about, *alerts):
    def add(act):
        CONVERSATIONS.append((about, act, alerts))
        return act

    return add


def simple(about, octets, *alerts):
    """Sends octets, and the server ends the connection."""
    CONVERSATIONS.append((about, lambda peer: peer.send(octets() if callable(octets) else octets), alerts))


A = AlertDescription

# What does not begin as TLS does may be answered in its words, or not.
NOT_TLS = (None, A.decode_error, A.unexpected_message, A.protocol_version, A.record_overflow)

# Versions (RFC 8446, 4.1.2, 4.2.1 and D).
simple("SSL 2.0", b"\x80\x2e\x01\0\x02\0\x15\0\0\0\x10" + bytes(37), *[None, A.decode_error, A.protocol_version, A.unexpected_message])
simple("SSL 3.0", lambda: record(HANDSHAKE, hello([0x0300], legacy=b"\x03\0"), b"\x03\0"), A.protocol_version)
simple("TLS 1.0", lambda: record(HANDSHAKE, hello([0x0301], legacy=b"\x03\x01"), b"\x03\x01"), A.protocol_version)
simple("TLS 1.1", lambda: record(HANDSHAKE, hello([0x0302], legacy=b"\x03\x02"), b"\x03\x01"), A.protocol_version)
simple("only versions that nobody knows", lambda: record(HANDSHAKE, hello([0x0305, 0x7F1C])), A.protocol_version)
simple("no version in the list", lambda: record(HANDSHAKE, hello([], left_out=(43,), more=extension(43, b"\0"))), A.decode_error, A.protocol_version)

# Records (RFC 8446, 5).
simple("HTTP in place of TLS", GET, *NOT_TLS)
simple("a record of unknown type", record(99, b"x"), *NOT_TLS)
simple("a record longer than allowed", lambda: bytes([HANDSHAKE, 3, 3, 0xFF, 0xFF]) + bytes(0xFFFF), A.record_overflow, A.decode_error)
simple("a record of a version that is none", lambda: record(HANDSHAKE, hello(), b"\x45\x54"), A.protocol_version, A.decode_error, A.unexpected_message)
simple("handshake records without octets", record(HANDSHAKE, b"") * 2, A.unexpected_message, A.decode_error)
simple("alert of one octet", record(ALERT, b"\x02"), A.decode_error, A.unexpected_message, None)
simple("application data first", record(APPLICATION_DATA, GET), *NOT_TLS)
simple("change of ciphers first", record(CHANGE_CIPHER_SPEC, b"\x01"), *NOT_TLS)
simple("a fatal alert first", record(ALERT, bytes([2, A.handshake_failure])), None)
simple("close_notify first", record(ALERT, bytes([1, A.close_notify])), None, A.close_notify)
simple("warnings without end", record(ALERT, bytes([1, A.user_canceled])) * 1000, None, A.unexpected_message, A.decode_error)

# Handshake messages (RFC 8446, 4).
simple("another message than ClientHello", record(HANDSHAKE, message(FINISHED, bytes(32))), A.unexpected_message)
simple("ServerHello of a client", lambda: record(HANDSHAKE, message(SERVER_HELLO, hello()[4:])), A.unexpected_message, A.decode_error)
simple("HelloRequest of a client", record(HANDSHAKE, message(0, b"")), A.unexpected_message, A.decode_error)
simple("a message of unknown type", record(HANDSHAKE, message(77, b"x")), A.unexpected_message, A.decode_error)
simple("ClientHello that is cut off", lambda: record(HANDSHAKE, message(CLIENT_HELLO, hello()[4:60])), A.decode_error)
simple("ClientHello with octets behind it", lambda: record(HANDSHAKE, message(CLIENT_HELLO, hello()[4:] + b"x")), A.decode_error)
simple("a message of 16 MiB", lambda: record(HANDSHAKE, b"\x01\xff\xff\xff" + bytes(16000)) + record(HANDSHAKE, bytes(16000)) * 8, A.decode_error)
simple("ClientHello of 70 000 octets", lambda: in_records(hello(suites=SUITES + [0x0A0A] * 2500, more=extension(21, bytes(65000)))), A.decode_error)
simple("a change of ciphers within ClientHello", lambda: record(HANDSHAKE, (octets := hello())[:50]) + record(CHANGE_CIPHER_SPEC, b"\x01") + record(HANDSHAKE, octets[50:]), A.unexpected_message)
simple("two ClientHello", lambda: record(HANDSHAKE, hello([0x0303]) * 2), A.unexpected_message)

# What ClientHello says (RFC 8446, 4.1.2 and 4.2).
simple("no cipher suites", lambda: record(HANDSHAKE, hello(suites=[])), A.decode_error, A.illegal_parameter, A.handshake_failure)
simple("no cipher suite that is known", lambda: record(HANDSHAKE, hello(suites=[0x0A0A, 0x0005])), A.handshake_failure)
simple("weak cipher suites", lambda: record(HANDSHAKE, hello([0x0303], suites=[0x0005, 0x000A, 0x002F, 0xC013, 0x0000])), A.handshake_failure)
simple("a length of suites that is odd", lambda: record(HANDSHAKE, hello().replace(vector(words(SUITES), 2), b"\0\x05" + words(SUITES))), A.decode_error)
simple("compression and nothing else", lambda: record(HANDSHAKE, hello(compression=b"\x01")), A.illegal_parameter, A.decode_error, A.handshake_failure)
simple("compression offered with TLS 1.3", lambda: record(HANDSHAKE, hello([0x0304], compression=b"\x01\0")), A.illegal_parameter, A.decode_error)
simple("a session identifier of 33 octets", lambda: record(HANDSHAKE, hello(session=bytes(33))), A.decode_error, A.illegal_parameter)
simple("an extension twice", lambda: record(HANDSHAKE, hello(more=extension(10, vector(words([X25519]), 2)))), A.illegal_parameter, A.decode_error)
simple("no signature algorithms", lambda: record(HANDSHAKE, hello([0x0304], left_out=(13,))), A.missing_extension, A.handshake_failure)
simple("signatures that no key here makes", lambda: record(HANDSHAKE, hello([0x0303], left_out=(13,), more=extension(13, vector(words([0x0503]), 2)))), A.handshake_failure)
simple("no groups", lambda: record(HANDSHAKE, hello([0x0304], left_out=(10,))), A.missing_extension, A.handshake_failure, A.illegal_parameter)
simple("no group that is known", lambda: record(HANDSHAKE, hello([0x0304], groups=[0x2A2A], shares=[(0x2A2A, b"x")])), A.handshake_failure)
simple("a share of X25519 that is too short", lambda: record(HANDSHAKE, hello([0x0304], shares=[(X25519, point(31))])), A.illegal_parameter, A.decode_error)
simple("a share of X25519 that is too long", lambda: record(HANDSHAKE, hello([0x0304], shares=[(X25519, point(33))])), A.illegal_parameter, A.decode_error)
simple("a share of X25519 of order 1", lambda: record(HANDSHAKE, hello([0x0304], shares=[(X25519, bytes(32))])), A.illegal_parameter, A.decode_error, A.handshake_failure)
simple("a share of P-256 that is no point", lambda: record(HANDSHAKE, hello([0x0304], groups=[SECP256R1], shares=[(SECP256R1, b"\x04" + point(64))])), A.illegal_parameter, A.decode_error, A.handshake_failure)
simple("a share of P-256 that is compressed", lambda: record(HANDSHAKE, hello([0x0304], groups=[SECP256R1], shares=[(SECP256R1, b"\x02" + point(32))])), A.illegal_parameter, A.decode_error, A.handshake_failure)
simple("a share of P-256 at infinity", lambda: record(HANDSHAKE, hello([0x0304], groups=[SECP256R1], shares=[(SECP256R1, b"\0")])), A.illegal_parameter, A.decode_error, A.handshake_failure)
simple("a share without octets", lambda: record(HANDSHAKE, hello([0x0304], shares=[(X25519, b"")])), A.illegal_parameter, A.decode_error)
simple("two shares of a group", lambda: record(HANDSHAKE, hello([0x0304], shares=[x25519_share()] * 2)), A.illegal_parameter, A.decode_error)
simple("a name that is no name", lambda: record(HANDSHAKE, hello(left_out=(0,), more=extension(0, vector(b"\0" + vector(b"\xff\0/", 2), 2)))), A.unrecognized_name, A.illegal_parameter, A.decode_error)
simple("names without a name", lambda: record(HANDSHAKE, hello(left_out=(0,), more=extension(0, b"\0\0"))), A.decode_error, A.illegal_parameter)
simple("protocols without a protocol", lambda: record(HANDSHAKE, hello(more=extension(16, b"\0\0"))), A.decode_error, A.illegal_parameter)
simple("no protocol that is known", lambda: record(HANDSHAKE, hello([0x0303], more=extension(16, vector(vector(b"spdy/1", 1), 2)))), A.no_application_protocol)


@conversation("ClientHello in records of one octet")
def in_pieces(peer):
    for octet in hello():
        peer.send(record(HANDSHAKE, bytes([octet]), b"\x03\x01"))
    peer.server_hello()


@conversation("ClientHello octet by octet on the wire")
def in_segments(peer):
    for octet in record(HANDSHAKE, hello(), b"\x03\x01"):
        peer.send(bytes([octet]))
    peer.server_hello()


@conversation("ClientHello of 15 000 octets")
def large(peer):
    peer.hello(more=extension(21, bytes(15000)))
    peer.server_hello()


@conversation("GREASE everywhere")
def grease(peer):
    more = extension(0x0A0A) + extension(0xFAFA, b"\0")
    peer.hello(
        versions=[0x1A1A, 0x0304, 0x0303],
        suites=[0x2A2A, *SUITES],
        groups=[0x3A3A, X25519, SECP256R1],
        shares=[(0x3A3A, b"\0"), x25519_share()],
        more=more,
    )
    peer.server_hello()


@conversation("extensions that nobody knows")
def unknown_extensions(peer):
    peer.hello(more=b"".join(extension(number, os.urandom(9)) for number in range(0x8000, 0x8080)))
    peer.server_hello()


@conversation("TLS 1.2 asked for where 1.3 would do: the random value says so")
def downgrade(peer):
    peer.hello(versions=[0x0303])
    random = peer.server_hello()[2:34]
    assert random.endswith(DOWNGRADE), random.hex()


@conversation("TLS 1.3: the random value says nothing of the kind")
def no_downgrade(peer):
    peer.hello()
    assert b"DOWNGRD" not in peer.server_hello()[2:34]


@conversation("a group that has to be asked for")
def retry(peer):
    # RFC 8446, 4.1.4: the group is offered, its share is not.
    peer.hello(versions=[0x0304], shares=[])
    random = peer.server_hello()[2:34]
    asked = "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"
    assert random.hex() == asked, random.hex()


@conversation("the same ClientHello after a retry", A.illegal_parameter, A.decode_error, A.unexpected_message)
def retry_unheard(peer):
    first = record(HANDSHAKE, hello([0x0304], shares=[]))
    peer.send(first)
    peer.server_hello()
    peer.send(first)


# Behind ServerHello, TLS 1.3 says its alerts in cipher: here they are None.


@conversation("application data in place of Finished", None, A.bad_record_mac, A.unexpected_message, A.decode_error)
def early_data(peer):
    peer.hello()
    peer.server_hello()
    peer.send(record(APPLICATION_DATA, os.urandom(64)))


@conversation("0-RTT that was never offered is skipped, and no more than some of it", None, A.bad_record_mac, A.unexpected_message, A.decode_error, A.record_overflow)
def zero_rtt(peer):
    ticket = vector(vector(os.urandom(64), 2) + bytes(4), 2) + vector(vector(os.urandom(32), 1), 2)
    peer.hello(versions=[0x0304], more=extension(45, b"\x01\x01") + extension(42) + extension(41, ticket))
    for _ in range(200):
        peer.send(record(APPLICATION_DATA, os.urandom(16000)))


@conversation("a plain Finished in TLS 1.3", None, A.unexpected_message, A.decode_error, A.bad_record_mac)
def plain_finished(peer):
    peer.hello(versions=[0x0304])
    peer.server_hello()
    peer.send(record(HANDSHAKE, message(FINISHED, bytes(32))))


@conversation("changes of ciphers without number in TLS 1.3", A.unexpected_message, A.decode_error, A.illegal_parameter, None)
def changes(peer):
    peer.hello(versions=[0x0304])
    peer.server_hello()
    for _ in range(2000):
        peer.send(record(CHANGE_CIPHER_SPEC, b"\x01"))
    peer.send(record(APPLICATION_DATA, os.urandom(64)))


@conversation("a change of ciphers of another value", None, A.unexpected_message, A.decode_error, A.illegal_parameter)
def strange_change(peer):
    peer.hello(versions=[0x0304])
    peer.server_hello()
    peer.send(record(CHANGE_CIPHER_SPEC, b"\x02"))


def until_done(peer):
    """Reads the server's flight of TLS 1.2 up to ServerHelloDone."""
    messages = b""
    while True:
        came = peer.record()
        assert came is not None and came[0] == HANDSHAKE, f"no handshake: {came}"
        messages += came[1]
        rest, last = messages, None
        while len(rest) >= 4 and len(rest) >= 4 + int.from_bytes(rest[1:4], "big"):
            last, rest = rest[0], rest[4 + int.from_bytes(rest[1:4], "big") :]
        if last == 14:
            return


def at_done(about, octets, *alerts):
    """Sends octets where a client of TLS 1.2 would say its key."""

    def act(peer):
        peer.hello(versions=[0x0303], groups=[SECP256R1])
        until_done(peer)
        peer.send(octets)

    CONVERSATIONS.append((f"TLS 1.2: {about}", act, alerts))


NO_POINT = (A.illegal_parameter, A.decode_error, A.handshake_failure, A.decrypt_error)
OUT_OF_ORDER = (A.unexpected_message, A.decode_error, A.illegal_parameter, A.bad_record_mac, A.decrypt_error, A.handshake_failure)

at_done("a key that is no point", record(HANDSHAKE, message(CLIENT_KEY_EXCHANGE, vector(b"\x04" + point(64), 1))), *NO_POINT)
at_done("a key that is too short", record(HANDSHAKE, message(CLIENT_KEY_EXCHANGE, vector(b"\x04" + point(10), 1))), *NO_POINT)
at_done("a key without octets", record(HANDSHAKE, message(CLIENT_KEY_EXCHANGE, b"\0")), None, *NO_POINT)
at_done("a key and octets behind it", record(HANDSHAKE, message(CLIENT_KEY_EXCHANGE, vector(b"\x04" + point(64), 1) + b"x")), *NO_POINT)
at_done("a change of ciphers before the key", record(CHANGE_CIPHER_SPEC, b"\x01") + record(HANDSHAKE, os.urandom(40)), *OUT_OF_ORDER)
at_done("a change of ciphers within the key", record(HANDSHAKE, message(CLIENT_KEY_EXCHANGE, vector(b"\x04" + point(64), 1))[:9]) + record(CHANGE_CIPHER_SPEC, b"\x01"), A.unexpected_message)
at_done("Finished before the key", record(HANDSHAKE, message(FINISHED, bytes(12))), *OUT_OF_ORDER)
at_done("application data before the key", record(APPLICATION_DATA, GET), *OUT_OF_ORDER)
at_done("a certificate that nobody asked for", record(HANDSHAKE, message(CERTIFICATE, bytes(3))), *OUT_OF_ORDER)
at_done("a fatal alert", record(ALERT, bytes([2, A.internal_error])), None)
at_done("a new ClientHello", record(HANDSHAKE, hello([0x0303])), *OUT_OF_ORDER)


# Handshakes that a library does, with one thing done otherwise.


def settings(version):
    choices = HandshakeSettings()
    choices.minVersion = choices.maxVersion = version
    choices.keyShares = ["x25519"] if version == (3, 4) else choices.keyShares
    return choices


def shaken(peer, version):
    connection = TLSConnection(peer.socket)
    connection.closeSocket = False
    connection.handshakeClientCert(settings=settings(version), serverName="a.test")
    return connection


def answered(connection):
    octets = b""
    while more := connection.read(max=65536):
        octets += more
    assert octets.startswith(b"HTTP/1.1 200 "), octets[:100]


def with_versions(about, *alerts):
    """A conversation over an established connection, in both versions."""

    def add(act):
        for name, version in (("1.2", (3, 3)), ("1.3", (3, 4))):
            CONVERSATIONS.append(
                (f"TLS {name}: {about}", lambda peer, v=version: act(shaken(peer, v), peer), alerts)
            )
        return act

    return add


def from_library(act):
    """What a library raises is how the server ended it: its alert."""
    from tlslite.errors import TLSAbruptCloseError, TLSRemoteAlert

    try:
        act()
    except TLSRemoteAlert as alert:
        return alert.description
    except (TLSAbruptCloseError, ConnectionError):
        return None
    return "went on"


@with_versions("a request")
def request(connection, _):
    connection.send(GET)
    answered(connection)


@with_versions("a request in records of one octet")
def small_records(connection, _):
    for octet in GET:
        connection.send(bytes([octet]))
    answered(connection)


@with_versions("records without octets in between")
def empty_records(connection, _):
    from tlslite.messages import ApplicationData

    for part in (GET[:9], GET[9:]):
        for _ in range(3):
            for _ in connection._sendMsg(ApplicationData().create(bytearray())):
                pass
        connection.send(part)
    answered(connection)


@with_versions("close_notify is answered in kind, or by the end")
def close_notify(connection, peer):
    from tlslite.messages import Alert

    for _ in connection._sendMsg(Alert().create(A.close_notify, 1)):
        pass
    while peer.record() is not None:
        pass


@with_versions("half a request, and the end without close_notify")
def truncated(connection, peer):
    connection.send(GET[:20])
    peer.socket.shutdown(socket.SHUT_WR)
    while peer.record() is not None:
        pass


@with_versions("a record whose tag is wrong", A.bad_record_mac)
def bad_tag(connection, peer):
    peer.send(record(APPLICATION_DATA, os.urandom(80)))
    return from_library(lambda: connection.read(max=1))


@with_versions("a record too short for a tag", A.bad_record_mac, A.decode_error, A.unexpected_message)
def no_tag(connection, peer):
    peer.send(record(APPLICATION_DATA, b"x"))
    return from_library(lambda: connection.read(max=1))


@with_versions("a record longer than allowed", A.record_overflow, A.bad_record_mac, A.decode_error)
def long_record(connection, peer):
    peer.send(record(APPLICATION_DATA, os.urandom(18500)))
    return from_library(lambda: connection.read(max=1))


@with_versions("a plain alert", A.bad_record_mac, A.decode_error, A.unexpected_message, None)
def plain_alert(connection, peer):
    peer.send(record(ALERT, bytes([2, A.internal_error])))
    return from_library(lambda: connection.read(max=1))


@with_versions("a plain change of ciphers", A.bad_record_mac, A.decode_error, A.unexpected_message, None)
def late_change(connection, peer):
    peer.send(record(CHANGE_CIPHER_SPEC, b"\x01") * 2)
    return from_library(lambda: connection.read(max=1))


@with_versions("a new ClientHello: no renegotiation", A.no_renegotiation, A.unexpected_message, A.handshake_failure)
def renegotiation(connection, peer):
    from tlslite.messages import ApplicationData

    class Again(ApplicationData):
        contentType = HANDSHAKE

    offer = Again().create(bytearray(hello()))
    offer.contentType = HANDSHAKE
    for _ in connection._sendMsg(offer):
        pass
    return from_library(lambda: connection.read(max=1))


@with_versions("a message of the handshake out of place", A.unexpected_message, A.decode_error, A.no_renegotiation)
def late_message(connection, peer):
    from tlslite.messages import ApplicationData

    late = ApplicationData().create(bytearray(message(FINISHED, bytes(32))))
    late.contentType = HANDSHAKE
    for _ in connection._sendMsg(late):
        pass
    return from_library(lambda: connection.read(max=1))


def nothing_but_padding(peer):
    """RFC 8446, 5.4: the connection ends, and not in the orderly way."""
    from tlslite.messages import Message

    connection = shaken(peer, (3, 4))
    for _ in connection._recordLayer.sendRecord(Message(0, bytearray(8))):
        pass
    return from_library(lambda: connection.read(max=1))


def wrong_finished(version):
    def act(peer):
        from tlslite.messages import Finished

        right = Finished.create

        def wrong(self, verify_data):
            return right(self, bytearray(len(verify_data)))

        Finished.create = wrong
        try:
            return from_library(lambda: shaken(peer, version).read(max=1))
        finally:
            Finished.create = right

    return act


CONVERSATIONS += [
    ("TLS 1.3: a record of nothing but padding", nothing_but_padding, (None, A.unexpected_message)),
    ("TLS 1.2: a wrong Finished", wrong_finished((3, 3)), (A.decrypt_error,)),
    ("TLS 1.3: a wrong Finished", wrong_finished((3, 4)), (A.decrypt_error,)),
]


# Clients' certificates (RFC 8446, 4.4.2 and 4.4.3).


class Edited(TLSConnection):
    """A connection of which a function makes other messages of each that is sent in the handshake."""

    def __init__(self, plain, edit):
        super().__init__(plain)
        self.closeSocket = False
        self.edit = edit

    def _sendMsg(self, message, *choices, **more):
        edited = [message] if self.edit is None else self.edit(message)
        for one in edited:
            yield from super()._sendMsg(one, *choices, **more)


class Octets:
    """A message of the handshake, as it is on the wire."""

    contentType = HANDSHAKE

    def __init__(self, kind, octets):
        self.octets = bytearray(message(kind, bytes(octets)))

    def write(self):
        return self.octets


def kind_of(sent):
    return sent.write()[0] if sent.contentType == HANDSHAKE else None


def replaced(kind, make):
    """Edits messages of a kind: `make` yields others out of the octets of each."""

    def edit(sent):
        return list(make(bytes(sent.write()[4:]))) if kind_of(sent) == kind else [sent]

    return edit


def certified(peer, version, files, edit=None):
    """A handshake with a certificate, or without one where there are no files."""
    from tlslite.api import X509CertChain, parsePEMKey

    chain, private = None, None
    if files:
        chain = X509CertChain()
        with open(files[0]) as file:
            chain.parsePemList(file.read())
        with open(files[1]) as file:
            private = parsePEMKey(file.read(), private=True)
    connection = Edited(peer.socket, edit)
    choices = settings(version)
    # tlslite-ng compresses its certificate if its own ClientHello offers to read such ones, whether or not the
    # server's CertificateRequest does; RFC 8879, 4 has servers refuse that, and all do.
    choices.certificate_compression_send = choices.certificate_compression_receive = []
    connection.handshakeClientCert(chain, private, settings=choices, serverName="a.test")
    connection.edit = None
    return connection


def uncertified(version, files, edit=None):
    """A handshake that comes to nothing. In TLS 1.3 a client hears so after its own part of it."""
    return lambda peer: from_library(lambda: certified(peer, version, files, edit).read(max=1))


def served(version, files):
    def act(peer):
        connection = certified(peer, version, files)
        connection.send(GET)
        answered(connection)

    return act


def compressed(octets):
    """CompressedCertificate of a Certificate, by zlib (RFC 8879, 4)."""
    import zlib

    yield Octets(25, struct.pack(">H", 1) + len(octets).to_bytes(3, "big") + vector(zlib.compress(octets), 3))


def certificate_lists(version):
    """What may stand in a Certificate without being one, by what it is."""
    entry = vector(b"\x30\x03\x02\x01\x01", 3)
    if version == (3, 3):
        wrap = lambda entries: vector(entries, 3)
        no_octets = vector(b"", 3)
    else:
        wrap = lambda entries: b"\0" + vector(entries, 3)
        entry, no_octets = entry + b"\0\0", vector(b"", 3) + b"\0\0"
    yield "a certificate of DER that is none", wrap(entry)
    yield "a certificate without octets", wrap(no_octets)
    yield "a certificate that is cut off", wrap(entry[:-3])
    yield "a list of certificates that is cut off", wrap(entry)[:-1]
    yield "octets behind the certificates", wrap(entry) + b"x"


def of_clients(mode, folder):
    """The conversations with a server that asks for certificates. The folder has NAME.pem and NAME.key: `client`
    and `rsa` are good, `expired` was, `foreign` is of another authority, `server` is not for clients."""

    def files(name, key=None):
        return os.path.join(folder, f"{name}.pem"), os.path.join(folder, f"{key or name}.key")

    good = files("client")
    found = []

    def add(version, about, edit, *alerts, files=good):
        found.append((about, uncertified(version, files, edit), alerts))

    for version in ((3, 3), (3, 4)):
        is_13 = version == (3, 4)
        named = "TLS 1.3: " if is_13 else "TLS 1.2: "
        found += [
            (named + "a certificate of ECDSA", served(version, good), ()),
            (named + "a certificate of RSA", served(version, files("rsa")), ()),
        ]
        if mode == "optional":
            found.append((named + "no certificate where it is optional", served(version, None), ()))
        else:
            refused = A.certificate_required if is_13 else A.handshake_failure
            add(version, named + "no certificate", None, refused, A.certificate_required, files=None)
        # What is wrong with the certificate (RFC 8446, 6.2).
        add(version, named + "a certificate of another authority", None, A.unknown_ca, files=files("foreign"))
        add(version, named + "an expired certificate", None, A.certificate_expired, files=files("expired"))
        add(version, named + "a certificate for servers", None, A.unsupported_certificate, A.bad_certificate, A.certificate_unknown, files=files("server"))
        bad = (A.bad_certificate, A.decode_error, A.illegal_parameter)
        for about, octets in certificate_lists(version):
            add(version, named + about, replaced(CERTIFICATE, lambda _, o=octets: [Octets(CERTIFICATE, o)]), *bad)
        # What is wrong with the proof that the key is the client's.
        add(version, named + "a key that is not the certificate's", None, A.decrypt_error, files=files("client", "foreign"))

        def proof(about, change, *alerts, version=version, named=named, files=good):
            """A proof in which `change` makes another of the signature and its scheme."""

            def make(octets):
                yield Octets(CERTIFICATE_VERIFY, words([(s := change(octets[4:], octets[:2]))[1]]) + vector(s[0], 2))

            add(version, named + about, replaced(CERTIFICATE_VERIFY, make), *alerts, files=files)

        ecdsa, pss, pkcs1 = 0x0403, 0x0804, 0x0401
        unfit = (A.illegal_parameter, A.decrypt_error, A.handshake_failure)
        proof("a signature of which a bit is wrong", lambda o, _: (o[:-1] + bytes([o[-1] ^ 1]), ecdsa), A.decrypt_error)
        proof("a signature without octets", lambda o, _: (b"", ecdsa), A.decrypt_error, A.decode_error)
        proof("a signature that is cut off", lambda o, _: (o[:-1], ecdsa), A.decrypt_error, A.decode_error)
        proof("a signature of zeros", lambda o, _: (bytes(len(o)), ecdsa), A.decrypt_error)
        proof("a signature by ECDSA with SHA-1", lambda o, _: (o, 0x0203), *unfit)
        proof("a signature by a scheme that nobody knows", lambda o, _: (o, 0xFEFE), *unfit)
        proof("a signature by a scheme for another key", lambda o, _: (o, pss), *unfit)
        proof("RSA: a signature of which a bit is wrong", lambda o, _: (o[:-1] + bytes([o[-1] ^ 1]), pss if is_13 else pkcs1), *unfit, files=files("rsa"))
        if is_13:
            proof("RSA: PKCS #1, which TLS 1.3 does not have", lambda o, _: (o, pkcs1), *unfit, files=files("rsa"))
        # Messages that are not the right ones, or not in their place.
        add(version, named + "a certificate without a proof", replaced(CERTIFICATE_VERIFY, lambda _: []), *OUT_OF_ORDER)
        add(version, named + "a proof twice", replaced(CERTIFICATE_VERIFY, lambda o: [Octets(CERTIFICATE_VERIFY, o)] * 2), *OUT_OF_ORDER)
        empty = b"\0" + bytes(3) if is_13 else bytes(3)
        add(version, named + "a proof of no certificate", replaced(CERTIFICATE, lambda _: [Octets(CERTIFICATE, empty)]), *OUT_OF_ORDER, A.certificate_required)
        add(version, named + "no Certificate at all", replaced(CERTIFICATE, lambda _: []), *OUT_OF_ORDER)
        add(version, named + "a certificate twice", replaced(CERTIFICATE, lambda o: [Octets(CERTIFICATE, o)] * 2), *OUT_OF_ORDER)
        if is_13:
            add(version, named + "a compressed certificate that nobody asked for", replaced(CERTIFICATE, compressed), *OUT_OF_ORDER)
            add(version, named + "a context that was not asked for", replaced(CERTIFICATE, lambda o: [Octets(CERTIFICATE, b"\x01x" + o[1:])]), *OUT_OF_ORDER)
    return found


def unasked(octets):
    """No certificate, said to a server that has not asked for one, and Finished."""
    yield Octets(CERTIFICATE, bytes(4))
    yield Octets(FINISHED, octets)


CONVERSATIONS.append(("TLS 1.3: a certificate that nobody asked for", uncertified((3, 4), None, replaced(FINISHED, unasked)), OUT_OF_ORDER))


def honest(address, files):
    """A client with a library of its own."""
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if files:
        context.load_cert_chain(*files)
    with socket.create_connection(address, PATIENCE) as plain:
        with context.wrap_socket(plain, server_hostname="a.test") as secure:
            secure.sendall(GET)
            octets = b""
            while more := secure.recv(65536):
                octets += more
    assert octets.startswith(b"HTTP/1.1 200 "), octets[:100]


def name(alert):
    return A.toStr(alert) if isinstance(alert, int) else str(alert)


def check(address, act, alerts):
    peer = Peer(address)
    try:
        found = act(peer)
        if alerts:
            found = peer.end() if found is None else found
            assert found in alerts, f"ends by {name(found)}, not {[name(alert) for alert in alerts]}"
    finally:
        peer.socket.close()


def run(target, mode=None, folder=None):
    host, port = target.rsplit(":", 1)
    address, failed = (host, int(port)), 0
    files = folder and [os.path.join(folder, f"client.{kind}") for kind in ("pem", "key")]
    conversations = of_clients(mode, folder) if folder else CONVERSATIONS
    for about, act, alerts in conversations:
        try:
            check(address, act, alerts)
            honest(address, files)
        except Exception as error:
            failed += 1
            print(f"FAILED {about}: {type(error).__name__} {error}")
    print(f"{len(conversations) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run(*sys.argv[2:]))
