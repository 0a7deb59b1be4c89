//! Heads of requests (RFC 9112 §3).

use super::connection::{self, Options};
use super::cursor::{Cursor, Line, Part, Step};
use super::framing::Announced;
use super::octets::{target_len, token_len, trim};
use super::{Framing, HeadLimits};
use crate::message::{Authority, Length, Method, Name, Refusal, RequestHead, Version};

/// Longest method. The longest registered one has 17 octets.
const MAX_METHOD: usize = 32;

/// Empty lines that are skipped before a request line.
const MAX_EMPTY_LINES: u8 = 2;

/// What the fields of a request head do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestMeta {
    /// Octets of the head.
    pub consumed: usize,
    /// What follows it.
    pub framing: Framing,
    /// True if the client may send another request on this connection.
    pub keep_alive: bool,
}

/// Reads one head after the other; small, and without memory of its own.
#[derive(Clone, Debug, Default)]
pub struct RequestParser {
    cursor: Cursor,
    empty_lines: u8,
    has_start: bool,
    has_host: bool,
    /// The port that the target's scheme implies, if the target says the authority.
    target_authority: Option<ImpliedPort>,
    options: Options,
    announced: Announced,
    expects_continue: bool,
}

/// What a port that is not said in `Host` means next to the authority of the target.
#[derive(Clone, Copy, Debug)]
enum ImpliedPort {
    Of(u16),
    /// CONNECT: whatever the target says.
    OfTarget,
}

/// Reads a request head that is there in one piece: a [`RequestParser`] for one call.
///
/// # Errors
///
/// As [`RequestParser::parse`].
pub fn parse_request(
    input: &[u8],
    limits: &HeadLimits,
    head: &mut RequestHead,
) -> Result<Option<RequestMeta>, Refusal> {
    RequestParser::default().parse(input, limits, head)
}

impl RequestParser {
    /// Reads a head from the beginning of `input`; `None` if more octets are needed. Then call
    /// again with the same octets and those that came after them, and the same `head`. After a
    /// head the parser is ready for the next.
    ///
    /// `head` is cleared first. Its `scheme` stays `http`: how the client is connected is not in
    /// the octets.
    ///
    /// # Errors
    ///
    /// The first fault of the input, whatever stands after it. The connection must be closed.
    pub fn parse(
        &mut self,
        input: &[u8],
        limits: &HeadLimits,
        head: &mut RequestHead,
    ) -> Result<Option<RequestMeta>, Refusal> {
        let window = &input[..input.len().min(limits.head_bytes as usize)];
        if !self.cursor.may_go_on(window, limits) {
            return Ok(None);
        }
        if !self.has_start {
            match self.start_line(window, limits, head)? {
                Some(next) => {
                    self.cursor.at = next;
                    self.has_start = true;
                }
                None => return unfinished(window, limits, Refusal::TargetTooLong),
            }
        }
        loop {
            match self.cursor.field_line(window, limits)? {
                Step::Field(line) => self.field(&line, head)?,
                Step::End => return self.finish(head).map(Some),
                Step::Partial => return unfinished(window, limits, Refusal::HeadTooLong),
            }
        }
    }

    /// Reads the request line. Returns where the fields begin; `None` if it has not come whole.
    fn start_line(
        &mut self,
        window: &[u8],
        limits: &HeadLimits,
        head: &mut RequestHead,
    ) -> Result<Option<usize>, Refusal> {
        if !self.skip_empty_lines(window)? {
            self.cursor.wait(window, Part::Short);
            return Ok(None);
        }
        let line = &window[self.cursor.at..];
        let Some(method_len) = method_len(line)? else {
            self.cursor.wait(window, Part::Short);
            return Ok(None);
        };
        let rest = &line[method_len + 1..];
        let Some(target_len) = target_end(rest, limits)? else {
            let target_at = self.cursor.at + method_len + 1;
            let too_long = target_at + limits.target_bytes as usize + 1;
            self.cursor.wait(window, Part::Target { too_long });
            return Ok(None);
        };
        let Some(version) = version(&rest[target_len + 1..])? else {
            self.cursor.wait(window, Part::Short);
            return Ok(None);
        };
        head.clear();
        head.method = Method::of(&line[..method_len]);
        head.version = version;
        self.target_authority = set_target(&rest[..target_len], head)?;
        Ok(Some(
            self.cursor.at + method_len + 1 + target_len + 1 + VERSION.len() + 2,
        ))
    }

    /// False if it is not known yet whether more of them come.
    fn skip_empty_lines(&mut self, window: &[u8]) -> Result<bool, Refusal> {
        loop {
            match window.get(self.cursor.at..) {
                None | Some([] | [b'\r']) => return Ok(false),
                Some([b'\r', b'\n', ..]) if self.empty_lines == MAX_EMPTY_LINES => {
                    return Err(Refusal::RequestLine);
                }
                Some([b'\r', b'\n', ..]) => {
                    self.empty_lines += 1;
                    self.cursor.at += 2;
                }
                Some([b'\r' | b'\n', ..]) => return Err(Refusal::BareLineEnd),
                Some(_) => return Ok(true),
            }
        }
    }

    #[inline]
    fn field(&mut self, line: &Line<'_>, head: &mut RequestHead) -> Result<(), Refusal> {
        let (name, value) = (line.name, line.value());
        match name {
            Name::Host => self.host(value, head),
            Name::Connection => {
                if self.options.take(value)? {
                    head.fields
                        .push_line(name, line.whole, line.name_len, line.value_at);
                }
                Ok(())
            }
            Name::ContentLength => self.announced.content_length(value),
            Name::TransferEncoding => self.announced.transfer_encoding(value),
            Name::Expect => self.expect(value, head.version),
            Name::Te => {
                head.accepts_trailers |= accepts_trailers(value);
                Ok(())
            }
            Name::Upgrade => {
                let protocol = connection::upgrade_protocol(value)?;
                if head.protocol.is_empty() {
                    head.protocol.extend_from_slice(protocol);
                }
                Ok(())
            }
            Name::KeepAlive | Name::ProxyConnection | Name::Http2Settings | Name::Trailer => Ok(()),
            _ => {
                head.fields
                    .push_line(name, line.whole, line.name_len, line.value_at);
                Ok(())
            }
        }
    }

    fn host(&mut self, value: &[u8], head: &mut RequestHead) -> Result<(), Refusal> {
        if self.has_host {
            return Err(Refusal::HostAmbiguous);
        }
        self.has_host = true;
        if value.is_empty() {
            return Err(Refusal::HostMissing);
        }
        let host = Authority::of(value).ok_or(Refusal::HostInvalid)?;
        let Some(implied) = self.target_authority else {
            head.set_read_authority(value, host);
            return Ok(());
        };
        let target = Authority::of(head.authority()).ok_or(Refusal::Target)?;
        let default = match implied {
            ImpliedPort::Of(port) => Some(port),
            ImpliedPort::OfTarget => target.port,
        };
        if host.is_same(target, default) {
            Ok(())
        } else {
            Err(Refusal::HostAmbiguous)
        }
    }

    /// HTTP/1.0 knows no expectations (RFC 9110 §10.1.1).
    fn expect(&mut self, value: &[u8], version: Version) -> Result<(), Refusal> {
        if version == Version::Http10 {
            return Ok(());
        }
        if !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(Refusal::Expectation);
        }
        self.expects_continue = true;
        Ok(())
    }

    /// Judges what only all fields together say.
    fn finish(&mut self, head: &mut RequestHead) -> Result<RequestMeta, Refusal> {
        if !self.has_host && head.version != Version::Http10 {
            return Err(Refusal::HostMissing);
        }
        let framing = if self.announced.is_chunked(head.version)? {
            Framing::Chunked
        } else {
            self.announced.length.map_or(Framing::None, Framing::Exact)
        };
        head.length = match framing {
            Framing::None => Length::None,
            Framing::Exact(length) => Length::Exact(length),
            Framing::Chunked => Length::Unknown,
        };
        // What follows CONNECT is the tunnel's, so that a length would be read in two ways.
        if head.method == Method::Connect && self.announced.speaks_of_content() {
            return Err(Refusal::Upgrade);
        }
        head.expects_continue = self.expects_continue && !head.length.is_empty();
        self.options.remove_named(&mut head.fields);
        // Octets of a tunnel could not be told from content, and HTTP/1.0 has no upgrade.
        let may_upgrade = self.options.upgrade
            && head.version != Version::Http10
            && head.length.is_empty()
            && !matches!(head.method, Method::Head | Method::Connect);
        if !may_upgrade {
            head.protocol.clear();
        }
        let meta = RequestMeta {
            consumed: self.cursor.at,
            framing,
            keep_alive: self.options.keeps_alive(head.version),
        };
        *self = Self::default();
        Ok(meta)
    }
}

/// What an unfinished line means.
fn unfinished<T>(
    window: &[u8],
    limits: &HeadLimits,
    too_long: Refusal,
) -> Result<Option<T>, Refusal> {
    if window.len() == limits.head_bytes as usize {
        Err(too_long)
    } else {
        Ok(None)
    }
}

/// Octets of the method; `None` if its end has not come.
fn method_len(line: &[u8]) -> Result<Option<usize>, Refusal> {
    let begin = &line[..line.len().min(MAX_METHOD + 1)];
    let len = token_len(begin);
    match line.get(len) {
        _ if len > MAX_METHOD => Err(Refusal::Method),
        None => Ok(None),
        Some(b' ') if len > 0 => Ok(Some(len)),
        Some(b'\r' | b'\n') => Err(Refusal::RequestLine),
        Some(_) => Err(Refusal::Method),
    }
}

/// Octets of the target; `None` if its end has not come.
fn target_end(rest: &[u8], limits: &HeadLimits) -> Result<Option<usize>, Refusal> {
    let len = target_len(rest);
    match rest.get(len) {
        _ if len > limits.target_bytes as usize => Err(Refusal::TargetTooLong),
        None => Ok(None),
        Some(b' ') if len > 0 => Ok(Some(len)),
        Some(b' ' | b'\r' | b'\n') => Err(Refusal::RequestLine),
        Some(_) => Err(Refusal::Target),
    }
}

const VERSION: &[u8; 8] = b"HTTP/1.1";

/// The version and the line's end; `None` if they have not come.
fn version(rest: &[u8]) -> Result<Option<Version>, Refusal> {
    if rest.starts_with(b"HTTP/1.1\r\n") {
        return Ok(Some(Version::Http11));
    }
    for (&octet, &pattern) in rest.iter().zip(VERSION) {
        let fits = octet == pattern || (octet.is_ascii_digit() && pattern.is_ascii_digit());
        if !fits {
            return Err(Refusal::RequestLine);
        }
    }
    let Some((digits, end)) = rest.split_at_checked(VERSION.len()) else {
        return Ok(None);
    };
    let version = match digits {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        _ => return Err(Refusal::Version),
    };
    match end {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some(version)),
        [b'\r' | b'\n', ..] => Err(Refusal::BareLineEnd),
        _ => Err(Refusal::RequestLine),
    }
}

/// Takes the target apart by its form (RFC 9112 §3.2).
fn set_target(target: &[u8], head: &mut RequestHead) -> Result<Option<ImpliedPort>, Refusal> {
    if head.method == Method::Connect {
        let authority = Authority::of(target).ok_or(Refusal::Target)?;
        authority.port.ok_or(Refusal::Target)?;
        head.set_read_authority(target, authority);
        return Ok(Some(ImpliedPort::OfTarget));
    }
    let is_options = head.method == Method::Options;
    if target[0] == b'/' || (target == b"*" && is_options) {
        head.set_target(target);
        return Ok(None);
    }
    let (rest, port) = without_scheme(target).ok_or(Refusal::Target)?;
    let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let read = Authority::of(authority).ok_or(Refusal::Target)?;
    head.set_read_authority(authority, read);
    match path {
        [] if is_options => head.set_target(b"*"),
        [b'/', ..] => head.set_target(path),
        query => {
            head.set_target(query);
            head.set_path(b"/");
        }
    }
    Ok(Some(ImpliedPort::Of(port)))
}

/// What follows `http://` or `https://`, and that scheme's port.
fn without_scheme(target: &[u8]) -> Option<(&[u8], u16)> {
    const SCHEMES: [(&[u8], u16); 2] = [(b"http://", 80), (b"https://", 443)];
    SCHEMES.iter().find_map(|&(scheme, port)| {
        let (begin, rest) = target.split_at_checked(scheme.len())?;
        begin.eq_ignore_ascii_case(scheme).then_some((rest, port))
    })
}

/// True if `TE` has the member `trailers` (RFC 9110 §10.1.4).
fn accepts_trailers(value: &[u8]) -> bool {
    value
        .split(|&octet| octet == b',')
        .any(|member| trim(member).eq_ignore_ascii_case(b"trailers"))
}
