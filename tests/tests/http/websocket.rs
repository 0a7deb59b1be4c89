//! As much of WebSocket (RFC 6455) as a client and an origin need that take turns with short
//! messages.

use crate::support::{Client, Origin, field};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::net::SocketAddr;

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;

/// What a key is answered with (§4.2.2) is SHA-1, which nothing else here needs: the key of the
/// example in §1.3 has a known answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A client's end of a WebSocket.
pub(crate) struct WebSocket {
    client: Client,
    /// Fields of the answer to the handshake.
    pub(crate) head: String,
}

impl WebSocket {
    /// Opens one; `fields` are lines of the request, each with its end.
    pub(crate) fn open(address: SocketAddr, path: &str, fields: &str) -> Self {
        let mut client = Client::to(address);
        client.send(format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{fields}\r\n"
        ));
        let head = client.head().expect("an answer");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(field(&head, "sec-websocket-accept"), Some(ACCEPT));
        Self { client, head }
    }

    /// Sends a message and returns the one that comes back.
    pub(crate) fn echo(&mut self, text: &str) -> String {
        self.client.send(frame(TEXT, text.as_bytes(), true));
        let (opcode, octets) = read(&mut self.client).expect("a message");
        assert_eq!(opcode, TEXT);
        String::from_utf8(octets).expect("text")
    }

    /// Closes it in the orderly way; true if the other side does likewise.
    pub(crate) fn close(mut self) -> bool {
        self.client
            .send(frame(CLOSE, &1000_u16.to_be_bytes(), true));
        matches!(read(&mut self.client), Some((CLOSE, _)))
    }
}

/// An origin that sends each message back behind its name.
pub(crate) fn echo(name: &'static str) -> Origin {
    Origin::new(move |mut client, _| {
        let Some(head) = client.head() else { return };
        let Some(key) = field(&head, "sec-websocket-key") else {
            client.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}",
                name.len()
            ));
            return;
        };
        assert_eq!(STANDARD.decode(key).map(|key| key.len()), Ok(16));
        assert_eq!(key, KEY);
        client.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        ));
        while let Some((opcode, octets)) = read(&mut client) {
            if opcode == CLOSE {
                client.send(frame(CLOSE, &octets, false));
                return;
            }
            let answer = [name.as_bytes(), b": ", &octets].concat();
            client.send(frame(TEXT, &answer, false));
        }
    })
}

fn frame(opcode: u8, octets: &[u8], masked: bool) -> Vec<u8> {
    let length = u8::try_from(octets.len()).expect("short");
    assert!(length < 126, "short");
    if !masked {
        return [&[opcode, length], octets].concat();
    }
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let covered = octets.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b);
    let head = [opcode, length | 0x80];
    head.into_iter().chain(mask).chain(covered).collect()
}

/// A frame's first octet and its content; `None` at the end.
fn read(client: &mut Client) -> Option<(u8, Vec<u8>)> {
    let head = client.exactly(2);
    let [opcode, length] = head.try_into().ok()?;
    let mask = if length & 0x80 == 0 {
        vec![0]
    } else {
        client.exactly(4)
    };
    let octets = client.exactly(usize::from(length & 0x7f));
    let plain = octets.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b);
    Some((opcode, plain.collect()))
}
