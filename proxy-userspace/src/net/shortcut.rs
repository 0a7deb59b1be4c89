//! A tunnel's short way past this process, where both its other ends are on this host: taken as soon as
//! it can be, watched, and left again where it does not do.
//!
//! Whoever copies a tunnel's octets goes on as without, and says after each round what it holds
//! ([`Shortcut::sync`]). What has gone past is asked for now and then ([`Shortcut::look`]): for counts,
//! for the time in which nothing has moved, and for readers that do not take what waits.

use super::clock::{Nanos, of_kernel};
use super::stream::Stream;
use crate::sockets::{self, Acceleration, Joined, NotJoined, Side, Way};
use std::os::fd::AsFd as _;
use std::sync::Arc;

/// How often a tunnel is looked at that is joined.
const LOOK: Nanos = 5_000_000_000;

/// After how long nothing was taken of what waits a tunnel is parted, and counted.
const NO_PROGRESS: Nanos = 20_000_000_000;

/// How often it is tried to join a tunnel whose ends do not know each other yet.
const TRIES: u8 = 16;

const WAYS: [Way; 2] = [Way::Up, Way::Down];

/// The short way of a tunnel, if there is one.
#[derive(Debug, Default)]
pub struct Shortcut(Option<Box<State>>);

#[derive(Debug)]
struct State {
    acceleration: Arc<Acceleration>,
    joined: Option<Joined>,
    tries: u8,
    /// When it is to be looked at.
    next: Nanos,
    /// What was told, by way.
    told: [u64; 2],
    /// What was not told when the tunnel was parted.
    left: Past,
    watched: [Watch; 2],
}

/// A side of a tunnel, for whom it is part of something larger.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a> {
    /// Its connection.
    pub stream: &'a Stream,
    /// Octets that were read from it and not yet taken.
    pub unread: u64,
    /// Octets that are to be written to it.
    pub unwritten: u64,
}

/// What has gone past since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Octets from the client.
    pub up: u64,
    /// Octets to it.
    pub down: u64,
    /// When the first octet ever went to it, if one did.
    pub first_down: Option<Nanos>,
    /// When the last one went either way.
    pub last: Nanos,
}

impl Shortcut {
    /// None yet, and none ever without acceleration of both sides.
    pub fn new(acceleration: Option<&Arc<Acceleration>>) -> Self {
        Self(acceleration.map(|acceleration| {
            Box::new(State {
                acceleration: Arc::clone(acceleration),
                joined: None,
                tries: TRIES,
                next: 0,
                told: [0; 2],
                left: Past::default(),
                watched: Default::default(),
            })
        }))
    }

    /// True while octets may go past.
    pub fn is_joined(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.joined.is_some())
    }

    /// To be called whenever octets have moved, and before the first: `held` are those that were read
    /// and not yet written, and others that are to be written first, from the client and to it.
    #[inline]
    pub fn sync(&mut self, client: &Stream, backend: &Stream, held: [u64; 2]) {
        if let Some(state) = &mut self.0
            && !state.sync(client, backend, held)
        {
            self.0 = None;
        }
    }

    /// When it is to be looked at next, if it is joined.
    pub fn next_look(&self) -> Nanos {
        match &self.0 {
            Some(state) if state.joined.is_some() => state.next,
            _ => Nanos::MAX,
        }
    }

    /// What has gone past since it was looked at before.
    pub fn look(&mut self, now: Nanos) -> Past {
        let Some(state) = &mut self.0 else {
            return Past::default();
        };
        state.next = now.saturating_add(LOOK);
        state.look()
    }

    /// Parts the tunnel, and counts it, if an end has long taken nothing of what waits there.
    pub fn watch(&mut self, client: &Stream, backend: &Stream, now: Nanos) {
        let Some(state) = &mut self.0 else {
            return;
        };
        if state.joined.is_some() && (state.is_stuck(client, backend, now) || !state.is_wanted()) {
            state.part();
        }
    }
}

impl State {
    /// False if it will never be joined.
    fn sync(&mut self, client: &Stream, backend: &Stream, held: [u64; 2]) -> bool {
        let (Some(from_client), Some(from_backend)) = (client.read_across(), backend.read_across())
        else {
            return self.joined.is_some();
        };
        let passed = [
            from_client.wrapping_sub(held[0]),
            from_backend.wrapping_sub(held[1]),
        ];
        if let Some(joined) = &self.joined {
            for (way, octets) in WAYS.into_iter().zip(passed) {
                joined.passed(way, octets);
            }
            return true;
        }
        let Some(left) = self.tries.checked_sub(1) else {
            // Parted, perhaps with something left to tell.
            return self.left != Past::default();
        };
        self.tries = left;
        let joined = self
            .acceleration
            .join(side(client, passed[0]), side(backend, passed[1]));
        match joined {
            Ok(joined) => self.joined = Some(joined),
            Err(NotJoined::NotYet) => {}
            Err(NotJoined::Never) => return false,
        }
        true
    }

    fn look(&mut self) -> Past {
        let Some(joined) = &self.joined else {
            return std::mem::take(&mut self.left);
        };
        let gone = WAYS.map(|way| joined.gone(way));
        let [up, down] = [0, 1].map(|way| {
            let more = gone[way].octets.saturating_sub(self.told[way]);
            self.told[way] = gone[way].octets;
            more
        });
        let at = |kernel| match kernel {
            0 => None,
            at => Some(of_kernel(at)),
        };
        Past {
            up,
            down,
            first_down: at(gone[1].first_at),
            last: gone
                .into_iter()
                .filter_map(|gone| at(gone.last_at))
                .max()
                .unwrap_or(0),
        }
    }

    /// False once acceleration as a whole was given up.
    fn is_wanted(&self) -> bool {
        self.acceleration.is_on()
    }

    fn part(&mut self) {
        // First nothing more goes past, then it is counted.
        if let Some(joined) = &self.joined {
            joined.stop();
        }
        self.left = self.look();
        self.joined = None;
        self.tries = 0;
    }

    fn is_stuck(&mut self, client: &Stream, backend: &Stream, now: Nanos) -> bool {
        let Some(joined) = &self.joined else {
            return false;
        };
        let mut is_stuck = false;
        for ((way, to), watch) in WAYS
            .into_iter()
            .zip([backend, client])
            .zip(&mut self.watched)
        {
            let gone = joined.gone(way).octets;
            if watch.is_settled(gone) {
                continue;
            }
            // An end that has gone takes nothing more, and its connection says so.
            let (Ok(local), Ok(peer)) = (to.local_addr(), to.peer_addr()) else {
                continue;
            };
            if let Ok(waiting) = sockets::waiting_beyond(local, peer) {
                is_stuck |= watch.saw(now, gone, waiting);
            }
        }
        if is_stuck {
            sockets::note_stall();
        }
        is_stuck
    }
}

fn side(stream: &Stream, passed: u64) -> Side<'_> {
    Side {
        socket: stream.socket().as_fd(),
        passed,
    }
}

/// Whether an end takes what waits there.
#[derive(Debug, Default)]
struct Watch {
    /// Octets that had gone there when nothing was left.
    settled: u64,
    /// Octets that it had taken, as far as can be told, and since when no more.
    taken: i64,
    since: Option<Nanos>,
}

impl Watch {
    /// True if nothing has gone there since it was seen empty.
    fn is_settled(&self, gone: u64) -> bool {
        self.settled == gone
    }

    /// Notes what was seen; true if nothing was taken for too long.
    fn saw(&mut self, now: Nanos, gone: u64, waiting: u32) -> bool {
        if waiting == 0 {
            *self = Self {
                settled: gone,
                taken: gone.cast_signed(),
                since: None,
            };
            return false;
        }
        let taken = gone.cast_signed() - i64::from(waiting);
        match self.since {
            Some(since) if taken <= self.taken => now.saturating_sub(since) >= NO_PROGRESS,
            _ => {
                self.since = Some(now);
                self.taken = taken;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn an_end_that_takes_nothing_of_what_waits_is_stuck_after_a_while() {
        let mut watch = Watch::default();
        assert!(watch.is_settled(0));
        assert!(!watch.is_settled(500));
        assert!(!watch.saw(SECOND, 500, 500));
        assert!(!watch.saw(20 * SECOND, 500, 500));
        assert!(watch.saw(21 * SECOND, 500, 500));
    }

    #[test]
    fn an_end_that_takes_a_little_is_slow_and_not_stuck() {
        let mut watch = Watch::default();
        for second in 0..100 {
            // It takes an octet for each hundred that come.
            let gone = 500 + 100 * second;
            let waiting = (gone - second) as u32;
            assert!(!watch.saw(second * SECOND, gone, waiting), "{second}");
        }
        // And more may come while it takes nothing at all.
        assert!(watch.saw(119 * SECOND, 20_000, 19_901));
    }

    #[test]
    fn an_end_that_has_taken_everything_is_not_asked_again() {
        let mut watch = Watch::default();
        assert!(!watch.saw(SECOND, 500, 500));
        assert!(!watch.saw(60 * SECOND, 700, 0));
        assert!(watch.is_settled(700));
        assert!(!watch.saw(120 * SECOND, 800, 100), "its time begins anew");
        assert!(!watch.saw(139 * SECOND, 800, 100));
        assert!(watch.saw(140 * SECOND, 800, 100));
    }

    #[test]
    fn without_acceleration_there_is_nothing_to_look_at() {
        let mut shortcut = Shortcut::new(None);
        assert!(!shortcut.is_joined());
        assert_eq!(shortcut.look(5), Past::default());
        assert_eq!(shortcut.next_look(), Nanos::MAX);
    }
}
