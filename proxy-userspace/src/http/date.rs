//! The `Date` field (RFC 9110 §5.6.7), written once a second.

use crate::net::Nanos;
use std::time::{SystemTime, UNIX_EPOCH};

/// The current date as text.
#[derive(Debug, Default)]
pub struct Date {
    text: String,
    /// Until when the text is right.
    until: Nanos,
}

impl Date {
    /// The text at this moment.
    pub fn at(&mut self, now: Nanos) -> &[u8] {
        if now >= self.until {
            let wall = SystemTime::now();
            let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
            self.text = httpdate::fmt_http_date(wall);
            self.until = now + u64::from(1_000_000_000 - since.subsec_nanos());
        }
        self.text.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_made_anew_when_its_second_is_over() {
        let mut date = Date::default();
        assert!(date.at(5).ends_with(b"GMT"));
        let until = date.until;
        date.text = "old".into();
        assert_eq!(date.at(until - 1), b"old");
        assert!(date.at(until).ends_with(b"GMT"));
    }
}
