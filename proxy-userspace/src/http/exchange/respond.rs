//! Answers that are made here: failures, redirects, fixed ones.
//!
//! This is the one place where a failure becomes an answer.

use super::failure::Failure;
use crate::filter::Answer;
use crate::message::{Length, Name, ResponseHead};

const PLAIN: &[u8] = b"text/plain; charset=utf-8";

/// A fixed answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    status: u16,
    content_type: Box<[u8]>,
    content: Box<[u8]>,
}

impl Fixed {
    /// An answer with this content.
    pub fn new(status: u16, content_type: &[u8], content: &[u8]) -> Self {
        Self {
            status,
            content_type: content_type.into(),
            content: content.into(),
        }
    }

    /// An answer that says its status in words.
    pub fn of_status(status: u16) -> Self {
        Self::new(status, PLAIN, in_words(status).as_bytes())
    }

    /// Makes `head` this answer's, to a request with this method; returns the content to send.
    pub fn write(&self, to_head: bool, head: &mut ResponseHead) -> &[u8] {
        begin(head, self.status);
        self.content(to_head, head)
    }

    /// Adds what `head` says about the content; returns the content to send.
    pub fn content(&self, to_head: bool, head: &mut ResponseHead) -> &[u8] {
        let length = self.content.len() as u64;
        if length > 0 {
            head.fields.set(Name::ContentType, &self.content_type);
        }
        match frame(length, to_head, head) {
            true => &self.content,
            false => &[],
        }
    }
}

/// Makes `head` the answer of a filter; returns the content to send.
pub fn filtered(answer: Answer, to_head: bool, head: &mut ResponseHead) -> Vec<u8> {
    begin(head, answer.status);
    for field in answer.fields.iter() {
        head.fields.push(field.name, field.spelled, field.value);
    }
    let content = answer.content.unwrap_or_else(|| {
        head.fields.set(Name::ContentType, PLAIN);
        in_words(answer.status).into_bytes()
    });
    match frame(content.len() as u64, to_head, head) {
        true => content,
        false => Vec::new(),
    }
}

/// Says how long the content of this length is that `head` announces; false if it is not sent.
fn frame(length: u64, to_head: bool, head: &mut ResponseHead) -> bool {
    if to_head {
        head.length = Length::None;
        head.described_length = Some(length);
        return false;
    }
    if matches!(head.status, 204 | 304) {
        head.length = Length::None;
        return false;
    }
    head.length = Length::Exact(length);
    true
}

fn in_words(status: u16) -> String {
    format!("{status} {}\n", reason(status))
}

/// Says who answers, and the status in words.
pub fn name_server(head: &mut ResponseHead) {
    head.reason.clear();
    head.reason
        .extend_from_slice(reason(head.status).as_bytes());
    head.fields.append(Name::Server, SERVER);
}

/// Makes `head` the beginning of an answer of this status that is made here.
pub fn begin(head: &mut ResponseHead, status: u16) {
    head.clear();
    head.status = status;
    name_server(head);
}

/// The answer to a request that failed so.
pub fn to_failure(failure: &Failure) -> Fixed {
    Fixed::of_status(failure.status())
}

/// Makes `head` a redirect; `location` has said where to.
pub fn redirect(status: u16, location: &[u8], to_head: bool, head: &mut ResponseHead) {
    begin(head, status);
    head.fields.append(Name::Location, location);
    if to_head {
        head.described_length = Some(0);
    } else {
        head.length = Length::Exact(0);
    }
}

/// What this program calls itself in `Server`.
pub const SERVER: &[u8] = b"sluice";

/// The usual words for a status (RFC 9110 §15); empty where there are none.
pub const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(head: &ResponseHead, name: Name) -> &str {
        std::str::from_utf8(head.fields.get(name).unwrap_or_default()).expect("text")
    }

    #[test]
    fn a_filter_answers_with_fields_and_content_of_its_own() {
        let mut answer = Answer::with_content(401, b"application/json", b"{}".to_vec());
        answer.fields.append_named(b"WWW-Authenticate", b"Bearer");
        let mut head = ResponseHead::default();
        let content = filtered(*answer.clone(), false, &mut head);
        assert_eq!((content.as_slice(), head.status), (b"{}".as_slice(), 401));
        assert_eq!(head.length, Length::Exact(2));
        assert_eq!(field(&head, Name::ContentType), "application/json");
        assert_eq!(
            head.fields.get_named(b"www-authenticate"),
            Some(&b"Bearer"[..])
        );
        // To HEAD the same without the content.
        let content = filtered(*answer, true, &mut head);
        assert_eq!((content.len(), head.length), (0, Length::None));
        assert_eq!(head.described_length, Some(2));
        assert_eq!(field(&head, Name::ContentType), "application/json");
    }

    #[test]
    fn without_content_it_says_its_status_in_words() {
        let mut head = ResponseHead::default();
        let content = filtered(*Answer::of_status(429), false, &mut head);
        assert_eq!(content, b"429 Too Many Requests\n");
        assert_eq!(head.length, Length::Exact(22));
        assert_eq!(field(&head, Name::ContentType), "text/plain; charset=utf-8");
        let content = filtered(*Answer::of_status(204), false, &mut head);
        assert_eq!((content.len(), head.length), (0, Length::None));
    }
}
