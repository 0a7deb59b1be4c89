//! Who is condemned, until when, and for the how-manieth time.

use super::{Condemn, Offence};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Duration;

/// A condemnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// For what.
    pub offence: Offence,
    /// Condemnations of the source so far, this one among them.
    pub times: u32,
    /// When it ends, in nanoseconds. Then it is remembered for a while.
    pub until: u64,
}

/// What became of a condemnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// The source is condemned.
    New(Sentence),
    /// It was already.
    Already,
    /// There is no room.
    Full,
}

/// A sentence, told to a successor: its times are spans, since clocks may differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    source: String,
    offence: String,
    times: u32,
    /// Milliseconds until its end; below 0 since.
    left_ms: i64,
}

/// All condemnations in force, and those that are remembered.
#[derive(Clone, Debug, Default)]
pub struct Register {
    sentences: HashMap<IpNet, Sentence>,
}

impl Register {
    /// Condemns a source, for longer than the last time if that is remembered.
    pub fn condemn(
        &mut self,
        source: IpNet,
        offence: Offence,
        now: u64,
        settings: &Condemn,
    ) -> Entered {
        let before = self.sentences.get(&source).copied();
        if before.is_some_and(|it| it.until > now) {
            return Entered::Already;
        }
        if before.is_none() && !self.has_room(now, settings.max_entries as usize) {
            return Entered::Full;
        }
        let times = before.map_or(0, |it| it.times).saturating_add(1);
        let sentence = Sentence {
            offence,
            times,
            until: now.saturating_add(nanos(length(settings, times))),
        };
        self.sentences.insert(source, sentence);
        Entered::New(sentence)
    }

    /// Makes room by forgetting the sentence that is over for the longest time. False if all are in
    /// force.
    fn has_room(&mut self, now: u64, most: usize) -> bool {
        while self.sentences.len() >= most {
            let over = self.sentences.iter().filter(|(_, it)| it.until <= now);
            let oldest = over.min_by_key(|(_, it)| it.until);
            let Some(source) = oldest.map(|(source, _)| *source) else {
                return false;
            };
            self.sentences.remove(&source);
        }
        true
    }

    /// Puts a sentence in force that somebody else has passed, if there is room.
    pub fn adopt(&mut self, source: IpNet, sentence: Sentence, most: u32) {
        if self.sentences.len() < most as usize {
            self.sentences.entry(source).or_insert(sentence);
        }
    }

    /// Forgets a source. True if it was condemned.
    pub fn pardon(&mut self, source: IpNet, now: u64) -> bool {
        let sentence = self.sentences.remove(&source);
        sentence.is_some_and(|it| it.until > now)
    }

    /// Forgets the sentences that are over for `remember` or longer.
    pub fn forget_old(&mut self, now: u64, remember: Duration) {
        let remember = nanos(remember);
        (self.sentences).retain(|_, it| it.until.saturating_add(remember) > now);
    }

    /// Forgets all sources that are not wanted; gives those of them that were condemned.
    pub fn keep(&mut self, now: u64, wanted: impl Fn(&IpNet) -> bool) -> Vec<IpNet> {
        let mut pardoned = Vec::new();
        self.sentences.retain(|source, it| {
            let is_wanted = wanted(source);
            if !is_wanted && it.until > now {
                pardoned.push(*source);
            }
            is_wanted
        });
        pardoned
    }

    /// The sentence of a source, if it is in force.
    pub fn in_force(&self, source: &IpNet, now: u64) -> Option<&Sentence> {
        self.sentences.get(source).filter(|it| it.until > now)
    }

    /// All sentences in force.
    pub fn all_in_force(&self, now: u64) -> impl Iterator<Item = (IpNet, Sentence)> + '_ {
        let all = self.sentences.iter();
        all.filter(move |(_, it)| it.until > now)
            .map(|(source, it)| (*source, *it))
    }

    /// Entries, those that are only remembered among them.
    pub fn len(&self) -> usize {
        self.sentences.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.sentences.is_empty()
    }

    /// What a successor has to know.
    pub fn carried(&self, now: u64) -> Vec<Carried> {
        let ms = |nanos: u64| i64::try_from(nanos / 1_000_000).unwrap_or(i64::MAX);
        let all = self.sentences.iter().map(|(source, it)| Carried {
            source: source.to_string(),
            offence: it.offence.label().to_owned(),
            times: it.times,
            left_ms: if it.until > now {
                ms(it.until - now)
            } else {
                -ms(now - it.until)
            },
        });
        all.collect()
    }

    /// Goes on with what a predecessor knew.
    pub fn inherit(&mut self, carried: &[Carried], now: u64, most: u32) {
        for it in carried {
            let (Ok(source), Some(offence)) = (it.source.parse(), Offence::from_label(&it.offence))
            else {
                continue;
            };
            let span = it.left_ms.unsigned_abs().saturating_mul(1_000_000);
            let until = if it.left_ms < 0 {
                now.saturating_sub(span)
            } else {
                now.saturating_add(span)
            };
            let sentence = Sentence {
                offence,
                times: it.times,
                until,
            };
            self.adopt(source, sentence, most);
        }
    }
}

/// How long the `times`-th condemnation lasts.
fn length(settings: &Condemn, times: u32) -> Duration {
    let doubled = 1_u32.checked_shl(times.saturating_sub(1));
    let length = doubled.and_then(|factor| settings.duration.checked_mul(factor));
    length
        .unwrap_or(settings.max_duration)
        .min(settings.max_duration)
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
