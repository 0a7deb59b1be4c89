//! Contexts: reading them, deciding, and telling backends.

use super::Traced;
use crate::message::{Fields, Name};

/// What a request says about its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The trace, and the span that caused the request; `None` if only a decision came.
    pub parent: Option<([u8; 16], [u8; 8])>,
    /// The client's decision, if it made one.
    pub sampled: Option<bool>,
    /// How it was said.
    pub form: Form,
}

/// How a context is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Form {
    /// `traceparent`.
    W3c,
    /// `b3`.
    B3Single,
    /// `X-B3-TraceId` and its kin.
    B3Multi,
}

impl Incoming {
    /// The context in a request's fields; `None` if there is none that is valid.
    pub fn read(fields: &Fields) -> Option<Self> {
        w3c(fields)
            .or_else(|| fields.get(Name::B3).and_then(b3_single))
            .or_else(|| b3_multi(fields))
    }
}

/// `traceparent`: version, trace, parent and flags (W3C Trace Context §3.2).
fn w3c(fields: &Fields) -> Option<Incoming> {
    let mut all = fields.all(Name::Traceparent);
    let (value, None) = (all.next()?, all.next()) else {
        return None;
    };
    let (head, rest) = value.split_at_checked(55)?;
    let mut parts = head.split(|&octet| octet == b'-');
    let version = hex::<1>(parts.next()?)?;
    let trace = nonzero(hex::<16>(parts.next()?)?)?;
    let parent = nonzero(hex::<8>(parts.next()?)?)?;
    let [flags] = hex::<1>(parts.next()?)?;
    let known_shape = match version {
        [0] => rest.is_empty(),
        [0xff] => false,
        // Later versions may say more after another dash.
        _ => rest.is_empty() || rest[0] == b'-',
    };
    known_shape.then_some(Incoming {
        parent: Some((trace, parent)),
        sampled: Some(flags & 1 == 1),
        form: Form::W3c,
    })
}

/// `b3`: `TRACE-SPAN`, `TRACE-SPAN-DECISION`, the same with a parent, or a decision alone.
fn b3_single(value: &[u8]) -> Option<Incoming> {
    let form = Form::B3Single;
    if let Some(sampled) = decision(value) {
        let sampled = Some(sampled);
        return Some(Incoming {
            parent: None,
            sampled,
            form,
        });
    }
    let mut parts = value.split(|&octet| octet == b'-');
    let trace = b3_trace(parts.next()?)?;
    let span = nonzero(hex::<8>(parts.next()?)?)?;
    let sampled = match parts.next() {
        Some(text) => Some(decision(text)?),
        None => None,
    };
    if let Some(grandparent) = parts.next() {
        hex::<8>(grandparent)?;
    }
    parts.next().is_none().then_some(Incoming {
        parent: Some((trace, span)),
        sampled,
        form,
    })
}

fn b3_multi(fields: &Fields) -> Option<Incoming> {
    let debug = fields.get_named(b"X-B3-Flags") == Some(b"1");
    let sampled = match fields.get(Name::XB3Sampled) {
        _ if debug => Some(true),
        Some(b"true") => Some(true),
        Some(b"false") => Some(false),
        Some(text) => Some(decision(text)?),
        None => None,
    };
    let trace = fields.get(Name::XB3TraceId).and_then(b3_trace);
    let span = fields.get(Name::XB3SpanId).and_then(hex::<8>);
    let parent = trace.zip(span.and_then(nonzero));
    (parent.is_some() || sampled.is_some()).then_some(Incoming {
        parent,
        sampled,
        form: Form::B3Multi,
    })
}

/// `0`, `1`, or `d` for a trace that is debugged and therefore sampled.
fn decision(text: &[u8]) -> Option<bool> {
    match text {
        b"0" => Some(false),
        b"1" | b"d" => Some(true),
        _ => None,
    }
}

/// A B3 trace id, which may have half the length.
fn b3_trace(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 16 {
        return nonzero(hex::<16>(text)?);
    }
    let mut trace = [0; 16];
    trace[8..].copy_from_slice(&nonzero(hex::<8>(text)?)?);
    Some(trace)
}

/// Octets from lower-case hexadecimal digits.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut octets = [0; N];
    for (octet, digits) in octets.iter_mut().zip(text.chunks_exact(2)) {
        *octet = digit(digits[0])? << 4 | digit(digits[1])?;
    }
    Some(octets)
}

fn digit(octet: u8) -> Option<u8> {
    match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'a'..=b'f' => Some(octet - b'a' + 10),
        _ => None,
    }
}

/// All zeros mean "no id" in every form.
fn nonzero<const N: usize>(id: [u8; N]) -> Option<[u8; N]> {
    (id != [0; N]).then_some(id)
}

/// A set of forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forms(u8);

impl Forms {
    /// `traceparent` alone.
    pub const W3C: Self = Self(1 << Form::W3c as u8);

    /// With one more.
    #[must_use]
    pub const fn with(self, form: Form) -> Self {
        Self(self.0 | 1 << form as u8)
    }

    const fn has(self, form: Form) -> bool {
        self.0 & (1 << form as u8) != 0
    }
}

impl FromIterator<Form> for Forms {
    fn from_iter<I: IntoIterator<Item = Form>>(forms: I) -> Self {
        forms.into_iter().fold(Self::default(), Self::with)
    }
}

/// Our part of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The trace.
    pub trace: [u8; 16],
    /// Our span.
    pub id: [u8; 8],
    /// The span that caused ours; `None` if the trace begins here.
    pub parent: Option<[u8; 8]>,
    /// True if it is to be recorded.
    pub sampled: bool,
    /// Forms in which backends are told.
    forms: Forms,
    /// The client's `tracestate` belongs to this trace.
    keeps_state: bool,
    /// The client's fields say all that there is to say.
    passes: bool,
}

impl Span {
    /// Begins a span. Without a decision of the client, `share` of the requests are sampled: those
    /// with a `draw`, which is even in 0..1, below it. `random` makes ids. Backends are told in
    /// `forms`, and in those that the client has used.
    pub fn begin(
        incoming: Option<Incoming>,
        forms: Forms,
        share: f64,
        draw: f64,
        random: [u64; 3],
    ) -> Self {
        let decided = incoming.and_then(|incoming| incoming.sampled);
        let parent = incoming.and_then(|incoming| incoming.parent);
        let mut trace = [0; 16];
        trace[..8].copy_from_slice(&random[0].to_be_bytes());
        // Zero is no id.
        trace[8..].copy_from_slice(&random[1].max(1).to_be_bytes());
        Self {
            trace: parent.map_or(trace, |(trace, _)| trace),
            id: id(random[2]),
            parent: parent.map(|(_, span)| span),
            sampled: decided.unwrap_or(draw < share),
            forms,
            keeps_state: incoming
                .is_some_and(|incoming| incoming.form == Form::W3c && incoming.parent.is_some()),
            passes: decided == Some(false),
        }
    }

    /// That of nobody: it is not recorded.
    pub const fn none() -> Self {
        Self {
            trace: [0; 16],
            id: [0; 8],
            parent: None,
            sampled: false,
            forms: Forms(0),
            keeps_state: false,
            passes: true,
        }
    }

    /// As a part of a flow whose spans are exported: recorded, unless the client is against it, and,
    /// unless the client has a trace, in one of the flow's.
    #[must_use]
    pub fn within(self, traced: &Traced) -> Self {
        let Some(connection) = traced.connection.filter(|_| !self.passes) else {
            return self;
        };
        let mut span = Self {
            sampled: true,
            ..self
        };
        if span.parent.is_none() {
            if traced.number == 1 {
                (span.trace, span.parent) = (connection.trace, Some(connection.span));
            } else {
                span.trace[..8].copy_from_slice(&traced.flow.id.to_be_bytes());
            }
        }
        span
    }

    /// A span that this one causes. `random` makes its id.
    #[must_use]
    pub fn child(&self, random: u64) -> Self {
        Self {
            id: id(random),
            parent: Some(self.id),
            ..*self
        }
    }

    /// Puts the context into the fields of a request to a backend, in place of the client's. Where
    /// the client has decided against recording, its fields stay: our span would be a parent that
    /// nobody ever sees.
    pub fn propagate(&self, fields: &mut Fields) {
        if self.passes {
            return;
        }
        // Also what was not valid: else it would contradict the others.
        if self.forms.has(Form::W3c) || fields.contains(Name::Traceparent) {
            let mut text = Text::default();
            text.push(b"00-").hex(&self.trace).push(b"-").hex(&self.id);
            text.push(if self.sampled { b"-01" } else { b"-00" });
            fields.set(Name::Traceparent, text.octets());
        }
        if !self.keeps_state {
            // It belongs to a context that is no more.
            fields.remove(Name::Tracestate);
        }
        let sampled: &[u8] = if self.sampled { b"1" } else { b"0" };
        if self.forms.has(Form::B3Single) || fields.contains(Name::B3) {
            let mut text = Text::default();
            text.hex(&self.trace).push(b"-").hex(&self.id).push(b"-");
            text.push(sampled);
            if let Some(parent) = &self.parent {
                text.push(b"-").hex(parent);
            }
            fields.set(Name::B3, text.octets());
        }
        let multi = [Name::XB3TraceId, Name::XB3Sampled];
        if self.forms.has(Form::B3Multi) || multi.iter().any(|name| fields.contains(*name)) {
            let mut one = |name, id: &[u8]| {
                fields.set(name, Text::default().hex(id).octets());
            };
            one(Name::XB3TraceId, &self.trace);
            one(Name::XB3SpanId, &self.id);
            if let Some(parent) = &self.parent {
                one(Name::XB3ParentSpanId, parent);
            }
            fields.set(Name::XB3Sampled, sampled);
        }
    }

    /// Trace and span for [`crate::observe::access_log::Record`].
    pub fn ids(&self) -> ([u8; 16], [u8; 8]) {
        (self.trace, self.id)
    }
}

/// A span's id: zero is none.
fn id(random: u64) -> [u8; 8] {
    random.max(1).to_be_bytes()
}

/// Room for the longest context: no allocation on the request's path.
struct Text {
    octets: [u8; 80],
    length: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self {
            octets: [0; 80],
            length: 0,
        }
    }
}

impl Text {
    fn push(&mut self, octets: &[u8]) -> &mut Self {
        self.octets[self.length..self.length + octets.len()].copy_from_slice(octets);
        self.length += octets.len();
        self
    }

    fn hex(&mut self, octets: &[u8]) -> &mut Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for &octet in octets {
            self.push(&[
                DIGITS[usize::from(octet >> 4)],
                DIGITS[usize::from(octet & 15)],
            ]);
        }
        self
    }

    fn octets(&self) -> &[u8] {
        &self.octets[..self.length]
    }
}
