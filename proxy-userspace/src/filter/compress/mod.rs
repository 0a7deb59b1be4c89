//! Compression of responses for clients that take it (RFC 9110 §8.4 and §12.5.3).
//!
//! A response is left as it is where compression would be wrong (it is encoded already, a part of
//! something, or `no-transform`), or would gain nothing (too short, or a type that is compressed in
//! itself). Where only the client's wishes decide, `Vary` says so, whether it is compressed or
//! not, so that caches keep the forms apart. A strong `ETag` becomes a weak one: the octets are
//! others than those that the origin named.
//!
//! What the backend has sent is flushed to the client when nothing more comes for now, so that
//! slow responses arrive as they are made.

mod encoder;

use super::{Content, Filter, Flow, Piece, RequestContext};
use crate::config::model::Config;
use crate::config::model::http::{Coding, Compression, Route};
use crate::files::acceptable_codings;
use crate::message::{Fields, Length, Method, Name, RequestHead, ResponseHead};
use encoder::Encoder;

/// Compression as a route, or each of its listeners, asks for it.
#[derive(Debug)]
pub struct Compress {
    by_listener: Vec<(String, Compression)>,
}

/// What is remembered of an exchange.
#[derive(Debug, Default)]
pub struct Chosen {
    /// Which settings hold.
    settings: Option<usize>,
    /// The coding that the client likes best.
    coding: Option<Coding>,
    to_head: bool,
    /// Boxed: it is large, and most exchanges have none.
    encoder: Option<Box<Encoder>>,
}

impl Compress {
    /// The compression that a route, or one of its listeners, asks for, if any.
    pub(super) fn of_route(route: &Route, config: &Config) -> Option<Self> {
        let own = config.http_listeners.iter();
        let own = own.filter(|listener| route.listeners.contains(&listener.name));
        let by_listener: Vec<_> = own
            .filter_map(|listener| {
                let settings = route.compression.as_ref();
                let settings = settings.or(listener.compression.as_ref())?;
                let is_used = !settings.codings.is_empty();
                is_used.then(|| (listener.name.clone(), settings.clone()))
            })
            .collect();
        (!by_listener.is_empty()).then_some(Self { by_listener })
    }

    fn settings(&self, chosen: &Chosen) -> Option<&Compression> {
        self.by_listener.get(chosen.settings?).map(|(_, it)| it)
    }
}

/// True if a response would be compressed for a client that takes it.
fn is_eligible(settings: &Compression, head: &ResponseHead, to_head: bool) -> bool {
    let fields = &head.fields;
    let length = match head.length {
        Length::Exact(length) => Some(length),
        Length::None => head.described_length,
        Length::Unknown => None,
    };
    let is_there = to_head || head.length != Length::None;
    is_there
        && head.status >= 200
        && !matches!(head.status, 204 | 206 | 304)
        && length.is_none_or(|length| length >= settings.min_bytes.max(1))
        && !fields.contains(Name::ContentEncoding)
        && !fields.contains(Name::ContentRange)
        && !has_token(fields, Name::CacheControl, b"no-transform")
        && fields
            .get(Name::ContentType)
            .is_some_and(|value| is_type(settings, value))
}

/// True if content of this type is compressed.
fn is_type(settings: &Compression, value: &[u8]) -> bool {
    let end = value.iter().position(|&octet| octet == b';');
    let name = value[..end.unwrap_or(value.len())].trim_ascii();
    settings.types.iter().any(|wanted| {
        let wanted = wanted.as_bytes();
        match wanted.strip_suffix(b"*") {
            Some(kind) => name
                .get(..kind.len())
                .is_some_and(|begin| begin.eq_ignore_ascii_case(kind)),
            None => name.eq_ignore_ascii_case(wanted),
        }
    })
}

impl Filter for Compress {
    type State = Chosen;

    fn request_head(
        &self,
        chosen: &mut Chosen,
        head: &mut RequestHead,
        context: &RequestContext<'_>,
    ) -> Flow {
        let mut own = self.by_listener.iter();
        chosen.settings = own.position(|(listener, _)| listener == context.listener);
        chosen.to_head = head.method == Method::Head;
        if let Some(settings) = self.settings(chosen) {
            let codings = acceptable_codings(&head.fields, &settings.codings);
            chosen.coding = codings.first().copied();
        }
        Flow::Continue
    }

    fn response_head(&self, chosen: &mut Chosen, head: &mut ResponseHead) -> Content {
        let Some(settings) = self.settings(chosen) else {
            return Content::Pass;
        };
        if !is_eligible(settings, head, chosen.to_head) {
            return Content::Pass;
        }
        if !has_token(&head.fields, Name::Vary, b"accept-encoding")
            && !has_token(&head.fields, Name::Vary, b"*")
        {
            head.fields.append(Name::Vary, b"Accept-Encoding");
        }
        let Some(coding) = chosen.coding else {
            return Content::Pass;
        };
        describe(head, coding);
        if chosen.to_head {
            return Content::Pass;
        }
        let Some(encoder) = Encoder::new(coding, settings.level) else {
            return Content::Pass;
        };
        chosen.encoder = Some(Box::new(encoder));
        head.length = Length::Unknown;
        Content::Filter
    }

    fn response_content(&self, chosen: &mut Chosen, piece: Piece<'_>, out: &mut Vec<u8>) {
        let Some(encoder) = &mut chosen.encoder else {
            return;
        };
        match piece {
            Piece::Octets(octets) => encoder.push(octets, out),
            Piece::Pause => encoder.flush(out),
            Piece::End => {
                encoder.finish(out);
                chosen.encoder = None;
            }
        }
    }
}

/// Makes a head that of the compressed form.
fn describe(head: &mut ResponseHead, coding: Coding) {
    let fields = &mut head.fields;
    fields.set(Name::ContentEncoding, coding.name().as_bytes());
    // Parts of the compressed form cannot be had, and digests were of the other one.
    fields.remove(Name::AcceptRanges);
    for digest in ["Content-Digest", "Repr-Digest", "Content-MD5", "Digest"] {
        fields.remove_named(digest.as_bytes());
    }
    if let Some(tag) = fields.get(Name::Etag)
        && !tag.starts_with(b"W/")
    {
        let weak = [b"W/", tag].concat();
        fields.set(Name::Etag, &weak);
    }
    head.described_length = None;
}

/// True if a list of tokens, perhaps with values, holds this one.
fn has_token(fields: &Fields, name: Name, token: &[u8]) -> bool {
    let elements = fields
        .all(name)
        .flat_map(|list| list.split(|&octet| octet == b','));
    elements
        .map(<[u8]>::trim_ascii)
        .any(|element| element.eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests;
