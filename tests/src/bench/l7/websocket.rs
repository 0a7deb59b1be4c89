//! WebSocket (RFC 6455), as one known handshake and messages of one size.

/// Octets of a message's payload.
pub const PAYLOAD: usize = 64;

/// Head of a masked text message of this size: the mask is zero, which leaves the payload as it
/// is.
const CLIENT_HEAD: [u8; 6] = [0x81, 0x80 | PAYLOAD as u8, 0, 0, 0, 0];
/// Head of an unmasked one.
const SERVER_HEAD: [u8; 2] = [0x81, PAYLOAD as u8];

/// The handshake, with the key of RFC 6455, 1.3.
pub const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: bench.test\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// Its answer.
pub const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A message of a client.
pub fn from_client() -> [u8; CLIENT_HEAD.len() + PAYLOAD] {
    let mut message = [b'x'; CLIENT_HEAD.len() + PAYLOAD];
    message[..CLIENT_HEAD.len()].copy_from_slice(&CLIENT_HEAD);
    message
}

/// A message of a server.
pub fn from_server() -> [u8; SERVER_HEAD.len() + PAYLOAD] {
    let mut message = [b'x'; SERVER_HEAD.len() + PAYLOAD];
    message[..SERVER_HEAD.len()].copy_from_slice(&SERVER_HEAD);
    message
}

/// Copies the payload of a client's message into a server's.
pub fn copy_payload(from: &[u8], to: &mut [u8]) {
    to[SERVER_HEAD.len()..].copy_from_slice(&from[CLIENT_HEAD.len()..]);
}
