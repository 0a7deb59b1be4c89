//! The `Date` field (RFC 9110 §5.6.7), written once a second.

use crate::net::Nanos;
use std::time::{SystemTime, UNIX_EPOCH};

/// Octets of a date: `Sun, 06 Nov 1994 08:49:37 GMT`.
const LENGTH: usize = 29;

/// The current date as text.
#[derive(Debug, Default)]
pub struct Date {
    text: [u8; LENGTH],
    /// Until when the text is right.
    until: Nanos,
}

impl Date {
    /// The text at this moment.
    pub fn at(&mut self, now: Nanos) -> &[u8] {
        if now >= self.until {
            let since = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            self.text = imf_fixdate(since.as_secs());
            self.until = now + u64::from(1_000_000_000 - since.subsec_nanos());
        }
        &self.text
    }
}

/// A moment, in seconds since the epoch, as `IMF-fixdate`. Years beyond 9999 wrap.
pub fn imf_fixdate(seconds: u64) -> [u8; LENGTH] {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"___, __ ___ ____ __:__:__ GMT";
    text[..3].copy_from_slice(DAYS[((days + 4) % 7) as usize]);
    two(&mut text[5..7], day);
    text[8..11].copy_from_slice(MONTHS[month as usize - 1]);
    two(&mut text[12..14], year / 100 % 100);
    two(&mut text[14..16], year % 100);
    two(&mut text[17..19], second / 3600);
    two(&mut text[20..22], second / 60 % 60);
    two(&mut text[23..25], second % 60);
    text
}

/// Year, month and day of a day since the epoch, counted in eras of 400 years that begin in March,
/// so that the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

fn two(place: &mut [u8], number: u64) {
    place[0] = b'0' + (number / 10) as u8;
    place[1] = b'0' + (number % 10) as u8;
}

const DAYS: [&[u8; 3]; 7] = [b"Sun", b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat"];
const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_are_written_as_the_rfc_has_them() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(String::from_utf8_lossy(&imf_fixdate(seconds)), text);
        }
    }

    #[test]
    fn the_text_is_made_anew_when_its_second_is_over() {
        let mut date = Date::default();
        assert!(date.at(5).ends_with(b"GMT"));
        let until = date.until;
        date.text = [b'x'; LENGTH];
        assert_eq!(date.at(until - 1), [b'x'; LENGTH]);
        assert!(date.at(until).ends_with(b"GMT"));
    }
}
