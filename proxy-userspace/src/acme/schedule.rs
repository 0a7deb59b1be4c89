//! When a certificate is ordered: pure, with time and randomness as arguments.
//!
//! Times are seconds since the epoch and not monotonic ones: what counts is what the calendar says,
//! also after this host was asleep.

use super::issued::Issued;
use super::memory::Memory;
use crate::config::model::acme::KeyKind;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// After the first failure. Authorities allow few failed orders an hour; with this and its
/// doubling there are five in the first.
const FIRST_PAUSE: Duration = Duration::from_secs(180);

/// After the first failure to reach the authority, which has noticed nothing of it.
const UNREACHED_PAUSE: Duration = Duration::from_secs(10);

/// After many failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);

/// After the authority has said that this is too much.
const LIMITED_PAUSE: Duration = Duration::from_secs(3600);

/// How far renewals of certificates that were issued together lie apart, as a share of their life.
const SPREAD: f64 = 0.02;

/// Between questions when the authority wants a certificate to be renewed (RFC 9773 §4.3.2).
const ASK_BOUNDS: (i64, i64) = (3600, 24 * 3600);

/// When the authority wants a certificate to be renewed (RFC 9773 §4.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    /// Which certificate, by its SHA-256.
    pub(super) fingerprint: String,
    /// From when on.
    pub(super) start: i64,
    /// Until when.
    pub(super) end: i64,
}

/// What a certificate should be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'w> {
    pub(super) names: &'w [String],
    pub(super) key: KeyKind,
    /// Share of its life after which it is renewed.
    pub(super) renew_at: f64,
}

/// Why a certificate is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// There is none.
    Absent,
    /// It is for other names.
    Names,
    /// Its key is of another kind.
    Key,
    /// Its issuer has revoked it.
    Revoked,
    /// It nears its end.
    Age,
    /// The authority wants it to be replaced.
    Window,
}

/// When a certificate is to be ordered, and why.
pub(super) fn due(
    wish: &Wish<'_>,
    issued: Option<&Issued>,
    memory: &Memory,
    is_revoked: bool,
) -> (i64, Why) {
    let (at, why) = match issued {
        None => (i64::MIN, Why::Absent),
        Some(issued) if !issued.is_for(wish.names) => (i64::MIN, Why::Names),
        Some(issued) if issued.key != Some(wish.key) => (i64::MIN, Why::Key),
        Some(_) if is_revoked => (i64::MIN, Why::Revoked),
        Some(issued) => renewal(wish.renew_at, issued, memory.window.as_ref()),
    };
    (at.max(memory.retry_at), why)
}

/// When a certificate that is as it should be is renewed.
fn renewal(share: f64, issued: &Issued, window: Option<&Window>) -> (i64, Why) {
    let draw = draw(&issued.fingerprint);
    let life = issued.not_after.saturating_sub(issued.not_before);
    let at = within(issued.not_before, life, share + SPREAD * draw);
    let window = window.filter(|window| window.fingerprint == issued.fingerprint);
    let wanted = window.map(|window| {
        let length = window.end.saturating_sub(window.start);
        within(window.start, length, draw)
    });
    match wanted {
        Some(wanted) if wanted < at => (wanted, Why::Window),
        _ => (at, Why::Age),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "seconds of a life fit, and the cast saturates"
)]
fn within(start: i64, length: i64, share: f64) -> i64 {
    start.saturating_add((length.max(0) as f64 * share.clamp(0.0, 1.0)) as i64)
}

/// A number from 0 to 1 that is always the same for a certificate: drawn anew at each look, a
/// renewal would come too soon.
fn draw(fingerprint: &str) -> f64 {
    let digits = fingerprint.get(..8).unwrap_or("0");
    let number = u32::from_str_radix(digits, 16).unwrap_or_default();
    f64::from(number) / f64::from(u32::MAX)
}

/// What a failure says about the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The authority was not reached.
    Unreached,
    /// It has refused, or something else went wrong.
    Refused,
    /// It has said that this is too much.
    Limited,
}

/// How long to wait after this many failures in a row, of which there was one at least, and the
/// last of this kind. `random` is from 0 to 1.
pub(super) fn pause(failures: u32, last: Failure, random: f64) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    let (first, least) = match last {
        Failure::Unreached => (UNREACHED_PAUSE, UNREACHED_PAUSE),
        Failure::Refused => (FIRST_PAUSE, FIRST_PAUSE),
        Failure::Limited => (FIRST_PAUSE, LIMITED_PAUSE),
    };
    let pause = first.saturating_mul(doubled).min(LONGEST_PAUSE);
    pause
        .max(least)
        .mul_f64(0.75 + random.clamp(0.0, 1.0) / 2.0)
}

/// When the authority is asked again when it wants a certificate to be renewed, after it has said
/// how long to wait.
pub(super) fn ask_again(now: i64, hint: Option<Duration>) -> i64 {
    let (least, most) = ASK_BOUNDS;
    let hint = hint.map_or(most, |hint| i64::try_from(hint.as_secs()).unwrap_or(most));
    now.saturating_add(hint.clamp(least, most))
}

impl Why {
    /// As it is logged.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Absent => "there is none",
            Self::Names => "it is for other names",
            Self::Key => "its key is of another kind",
            Self::Revoked => "it was revoked",
            Self::Age => "its time comes",
            Self::Window => "the authority wants it",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    fn issued(fingerprint: &str) -> Issued {
        Issued {
            fingerprint: fingerprint.to_owned(),
            names: vec!["b.example".to_owned(), "a.example".to_owned()],
            key: Some(KeyKind::EcdsaP256),
            not_before: 1000 * DAY,
            not_after: 1090 * DAY,
        }
    }

    fn names() -> Vec<String> {
        vec!["a.example".to_owned(), "b.example".to_owned()]
    }

    fn wish(names: &[String]) -> Wish<'_> {
        Wish {
            names,
            key: KeyKind::EcdsaP256,
            renew_at: 0.5,
        }
    }

    #[test]
    fn what_is_not_as_it_should_be_is_ordered_at_once() {
        let (names, memory) = (names(), Memory::default());
        let other = vec!["a.example".to_owned()];
        let now = |wish: &Wish<'_>, issued: Option<&Issued>, revoked| {
            let (at, why) = due(wish, issued, &memory, revoked);
            assert_eq!(at, 0, "{why:?}");
            why
        };
        let one = issued("00000000");
        assert_eq!(now(&wish(&names), None, false), Why::Absent);
        assert_eq!(now(&wish(&other), Some(&one), false), Why::Names);
        let rsa = Wish {
            key: KeyKind::Rsa2048,
            ..wish(&names)
        };
        assert_eq!(now(&rsa, Some(&one), false), Why::Key);
        assert_eq!(now(&wish(&names), Some(&one), true), Why::Revoked);
    }

    #[test]
    fn renewals_come_with_age_and_apart() {
        let (names, memory) = (names(), Memory::default());
        let at = |fingerprint: &str| {
            let (at, why) = due(&wish(&names), Some(&issued(fingerprint)), &memory, false);
            assert_eq!(why, Why::Age);
            at
        };
        assert_eq!(at("00000000"), 1045 * DAY);
        let last = at("ffffffff");
        assert!((1046 * DAY..=1047 * DAY).contains(&last), "{last}");
        assert_eq!(at("80000000aa"), at("80000000bb"), "it does not move");
    }

    #[test]
    fn the_authority_may_want_it_sooner_and_never_later() {
        let names = names();
        let with = |fingerprint: &str, start, end| {
            let memory = Memory {
                window: Some(Window {
                    fingerprint: fingerprint.to_owned(),
                    start,
                    end,
                }),
                ..Memory::default()
            };
            due(&wish(&names), Some(&issued("80000000")), &memory, false)
        };
        let (at, why) = with("80000000", 1010 * DAY, 1012 * DAY);
        assert_eq!(why, Why::Window);
        assert!((1010 * DAY..=1012 * DAY).contains(&at), "{at}");
        assert_eq!(with("80000000", 1080 * DAY, 1081 * DAY).1, Why::Age);
        assert_eq!(with("other", 1010 * DAY, 1012 * DAY).1, Why::Age);
        // A window that is over: at once.
        assert!(with("80000000", 10 * DAY, 11 * DAY).0 < 1000 * DAY);
        assert_eq!(with("80000000", 12 * DAY, 11 * DAY).0, 12 * DAY);
    }

    #[test]
    fn failures_are_waited_for_longer_and_longer() {
        let plain: Vec<_> = (1..=10)
            .map(|it| pause(it, Failure::Refused, 0.5))
            .collect();
        assert_eq!(plain[0], FIRST_PAUSE);
        assert!(plain.is_sorted(), "{plain:?}");
        assert_eq!(*plain.last().expect("some"), LONGEST_PAUSE);
        assert_eq!(pause(u32::MAX, Failure::Refused, 0.5), LONGEST_PAUSE);
        assert_eq!(pause(1, Failure::Limited, 0.5), LIMITED_PAUSE);
        assert_eq!(pause(2, Failure::Unreached, 0.5), 2 * UNREACHED_PAUSE);
        assert!(pause(3, Failure::Refused, 0.0) < pause(3, Failure::Refused, 1.0));
        // Authorities allow five failures an hour.
        let mut at = Duration::ZERO;
        let early = (1..).take_while(|it| {
            at += pause(*it, Failure::Refused, 0.0);
            at < Duration::from_secs(3600)
        });
        assert!(early.count() < 5, "the first one comes before them");
        let names = names();
        let memory = Memory {
            retry_at: 7,
            ..Memory::default()
        };
        assert_eq!(due(&wish(&names), None, &memory, false), (7, Why::Absent));
    }

    #[test]
    fn questions_to_the_authority_are_bounded() {
        assert_eq!(ask_again(0, None), DAY);
        assert_eq!(ask_again(0, Some(Duration::ZERO)), 3600);
        assert_eq!(ask_again(0, Some(Duration::from_secs(7200))), 7200);
        assert_eq!(ask_again(0, Some(Duration::MAX)), DAY);
    }
}
