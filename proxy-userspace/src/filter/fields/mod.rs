//! Edits of fields, and the presets of security fields.
//!
//! Removals come first, then fields that replace, then fields that are added. Names are compared
//! without regard to case. A security field is added only where the response says nothing itself;
//! that is no filter, because it concerns every response of a listener, also those that no route
//! serves.

use super::{Content, Filter, Flow, RequestContext};
use crate::config::model::http::{FieldEdits as Edits, Route, SecurityHeaders};
use crate::message::{Fields, RequestHead, ResponseHead};

/// The edits of a route.
#[derive(Debug)]
pub struct FieldEdits {
    request: Edits,
    response: Edits,
}

impl FieldEdits {
    /// The edits that a route asks for, if any.
    pub(super) fn of_route(route: &Route) -> Option<Self> {
        let edits = Self {
            request: route.request_fields.clone(),
            response: route.response_fields.clone(),
        };
        let nothing = Edits::default();
        let is_empty = edits.request == nothing && edits.response == nothing;
        (!is_empty).then_some(edits)
    }
}

impl Filter for FieldEdits {
    type State = ();

    fn request_head(&self, (): &mut (), head: &mut RequestHead, _: &RequestContext<'_>) -> Flow {
        edit(&mut head.fields, &self.request);
        Flow::Continue
    }

    fn response_head(&self, (): &mut (), head: &mut ResponseHead) -> Content {
        edit(&mut head.fields, &self.response);
        Content::Pass
    }
}

/// Adds the fields of a preset that a response lacks.
pub fn secure(preset: SecurityHeaders, fields: &mut Fields) {
    for (name, value) in preset.fields() {
        if fields.get_named(name.as_bytes()).is_none() {
            fields.append_named(name.as_bytes(), value.as_bytes());
        }
    }
}

fn edit(fields: &mut Fields, edits: &Edits) {
    for name in &edits.remove {
        fields.remove_named(name.as_bytes());
    }
    for (name, value) in &edits.set {
        fields.set_named(name.as_bytes(), value.as_bytes());
    }
    for (name, value) in &edits.add {
        fields.append_named(name.as_bytes(), value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_come_before_what_is_set_and_added() {
        let mut fields = Fields::new();
        fields.append_named(b"X-A", b"1");
        fields.append_named(b"x-b", b"1");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let edits = Edits {
            remove: vec!["x-a".to_owned()],
            set: vec![pair("X-B", "2"), pair("X-A", "3")],
            add: vec![pair("X-B", "4")],
        };
        edit(&mut fields, &edits);
        let all: Vec<_> = fields.all_named(b"x-b").collect();
        assert_eq!(all, [b"2", b"4"]);
        assert_eq!(fields.get_named(b"x-a"), Some(&b"3"[..]));
    }

    #[test]
    fn a_security_field_gives_way_to_the_backends() {
        let mut head = ResponseHead::default();
        head.fields.append_named(b"x-frame-options", b"ALLOW");
        secure(SecurityHeaders::Basic, &mut head.fields);
        assert_eq!(head.fields.all_named(b"X-Frame-Options").count(), 1);
        assert_eq!(
            head.fields.get_named(b"X-Content-Type-Options"),
            Some(&b"nosniff"[..])
        );
    }
}
