//! Contexts of traces (W3C and B3) in a request's fields: ids are never zero, and what backends are told
//! reads as the same trace, with our span in place of the client's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::WIDE;
use proxy_fuzz::message::h1::parse_request;
use proxy_fuzz::message::{Fields, Name, RequestHead};
use proxy_fuzz::observe::trace::context::{Form, Forms, Incoming, Span};
use proxy_fuzz::sum;

fuzz_target!(|input: &[u8]| {
    let request = [b"GET / HTTP/1.1\r\nHost: a\r\n", input, b"\r\n\r\n"].concat();
    let mut head = RequestHead::default();
    if !matches!(parse_request(&request, &WIDE, &mut head), Ok(Some(_))) {
        return;
    }
    let mut fields = head.fields;
    let incoming = Incoming::read(&fields);
    if let Some((trace, span)) = incoming.and_then(|incoming| incoming.parent) {
        assert!(trace != [0; 16] && span != [0; 8]);
    }
    let forms = Forms::W3C.with(Form::B3Single).with(Form::B3Multi);
    let random = [1, 2, sum(input) as u64];
    let span = Span::begin(incoming, forms, 0.5, 0.25, random);
    let is_refused = incoming.is_some_and(|incoming| incoming.sampled == Some(false));
    let before: Vec<_> = fields.iter().map(|field| field.value.to_vec()).collect();
    span.propagate(&mut fields);
    if is_refused {
        let after: Vec<_> = fields.iter().map(|field| field.value.to_vec()).collect();
        assert_eq!(before, after);
        return;
    }
    let parent = incoming.and_then(|incoming| incoming.parent);
    if let Some((trace, _)) = parent {
        assert_eq!(span.trace, trace);
    }
    // Each form says the same, whatever was there before.
    for names in [
        &[Name::Traceparent][..],
        &[Name::B3],
        &[Name::XB3TraceId, Name::XB3SpanId, Name::XB3Sampled],
    ] {
        let mut only = Fields::default();
        for name in names {
            let mut all = fields.all(*name);
            let value = all.next().expect("told");
            assert!(all.next().is_none(), "told twice");
            only.append(*name, value);
        }
        let told = Incoming::read(&only).expect("valid");
        assert_eq!(told.parent, Some((span.trace, span.id)));
        assert_eq!(told.sampled, Some(span.sampled));
    }
});
