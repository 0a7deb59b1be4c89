//! Version 1: a line of text.

use super::{Extensions, Fault, Header, Origin, begins_with};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: &[u8] = b"PROXY ";

/// Octets of the longest line with its end.
const MAX_LINE: usize = 107;

pub(super) fn parse(input: &[u8]) -> Result<Option<(Header<'_>, usize)>, Fault> {
    if begins_with(input, SIGNATURE)?.is_none() {
        return Ok(None);
    }
    let within = &input[..input.len().min(MAX_LINE)];
    let Some(end) = within
        .iter()
        .position(|octet| matches!(octet, b'\r' | b'\n'))
    else {
        return if within.len() == MAX_LINE {
            Err(Fault::TooLong)
        } else {
            Ok(None)
        };
    };
    match within[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if within.len() == MAX_LINE => return Err(Fault::TooLong),
        [b'\r'] => return Ok(None),
        _ => return Err(Fault::Line),
    }
    let line = std::str::from_utf8(&within[SIGNATURE.len()..end]).map_err(|_| Fault::Line)?;
    let header = Header {
        origin: origin(line).ok_or(Fault::Line)?,
        extensions: Extensions::default(),
    };
    Ok(Some((header, end + 2)))
}

/// What follows `PROXY `.
fn origin(line: &str) -> Option<Origin> {
    let mut words = line.split(' ');
    let parse: fn(&str) -> Option<IpAddr> = match words.next()? {
        "TCP4" => |word| Some(word.parse::<Ipv4Addr>().ok()?.into()),
        "TCP6" => |word| Some(word.parse::<Ipv6Addr>().ok()?.into()),
        // Whatever follows is to be ignored.
        "UNKNOWN" => return Some(Origin::Unknown),
        _ => return None,
    };
    let (client, server) = (parse(words.next()?)?, parse(words.next()?)?);
    let (client_port, server_port) = (port(words.next()?)?, port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    Some(Origin::Client {
        client: SocketAddr::new(client.to_canonical(), client_port),
        server: SocketAddr::new(server.to_canonical(), server_port),
        is_datagram: false,
    })
}

/// A port in decimal. `str::parse` alone would also take `+80` and `080`.
fn port(word: &str) -> Option<u16> {
    let is_plain = word.bytes().all(|octet| octet.is_ascii_digit());
    let is_padded = word.len() > 1 && word.starts_with('0');
    (is_plain && !is_padded).then(|| word.parse().ok())?
}
