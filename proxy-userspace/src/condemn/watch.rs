//! What workers and the control task share: workers tell of offences and ask who is barred, the
//! control task hears accusations and says who is.
//!
//! An offence takes a lock, a sixteenth of all sources' each; it is rare where nobody abuses, and
//! where somebody does it costs less than the answer. Whoever only accepts connections reads one
//! flag as long as nobody is barred, and follows one pointer else.

use super::{Barred, Condemn, Ledger, Offence, Tally, ledger, source_of};
use arc_swap::ArcSwap;
use ipnet::IpNet;
use parking_lot::Mutex;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use tokio::sync::Notify;

/// Accusations that nobody has heard yet, at most.
pub const ACCUSED: usize = 1024;

/// Parts of the ledger.
const PARTS: usize = 16;

/// The settings in force, compiled.
#[derive(Clone, Debug)]
pub struct Plan {
    /// As configured.
    pub settings: Condemn,
    /// Who is never condemned: the configured sources, and everybody whom some listener trusts.
    pub exempt: Vec<IpNet>,
    within: u64,
}

impl Plan {
    /// Of these settings, where `trusted` are the proxies that listeners trust.
    pub fn new(settings: &Condemn, trusted: impl IntoIterator<Item = IpNet>) -> Self {
        let mut exempt = settings.exempt.clone();
        exempt.extend(trusted);
        exempt.sort_unstable();
        exempt.dedup();
        Self {
            within: u64::try_from(settings.within.as_nanos()).unwrap_or(u64::MAX),
            settings: settings.clone(),
            exempt,
        }
    }

    /// True for a source that is never condemned. One that only in part is exempt is, too: the rest
    /// of it cannot be told apart in the kernel.
    pub fn is_exempt(&self, source: &IpNet) -> bool {
        let overlaps = |net: &IpNet| net.contains(source) || source.contains(net);
        self.exempt.iter().any(overlaps)
    }
}

/// How the control task has judged an accusation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Judged {
    /// The source is condemned.
    Condemned,
    /// It would be, if this were no dry run.
    DryRun,
    /// Many share the address.
    Spared,
    /// There is no room for one more.
    Full,
}

impl Judged {
    /// All, in order of their numbers.
    pub const ALL: [Self; 4] = [Self::Condemned, Self::DryRun, Self::Spared, Self::Full];

    /// For metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Condemned => "condemned",
            Self::DryRun => "dry_run",
            Self::Spared => "spared",
            Self::Full => "full",
        }
    }
}

/// Whether an offence counts against its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// It does.
    Counted,
    /// The source is exempt, or known by somebody's word only.
    Exempt,
}

impl Standing {
    /// All, in order of their numbers.
    pub const ALL: [Self; 2] = [Self::Counted, Self::Exempt];

    /// For metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Exempt => "exempt",
        }
    }
}

/// A source that has offended too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accusation {
    /// Who.
    pub source: IpNet,
    /// The offence of which there were too many.
    pub offence: Offence,
    /// What it has done.
    pub tally: Tally,
}

/// What workers and the control task share.
#[derive(Debug)]
pub struct Watch {
    parts: [Mutex<Ledger>; PARTS],
    secret: RandomState,
    /// When somebody offended last, in nanoseconds of the workers' clock; 0 if nobody ever did.
    offended: AtomicU64,
    accused: Mutex<Vec<Accusation>>,
    news: Notify,
    is_barring: AtomicBool,
    barred: ArcSwap<Barred>,
    counts: Counts,
}

/// What is counted.
#[derive(Debug, Default)]
struct Counts {
    offences: [[AtomicU64; Standing::ALL.len()]; Offence::ALL.len()],
    judged: [[AtomicU64; Judged::ALL.len()]; Offence::ALL.len()],
    /// Accusations that found no room.
    lost: AtomicU64,
    /// Connections that were reset.
    refused: AtomicU64,
    /// Sources that are condemned now.
    condemned: AtomicU64,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            parts: std::array::from_fn(|_| Mutex::new(Ledger::new(ledger::SUSPECTS / PARTS))),
            secret: RandomState::new(),
            offended: AtomicU64::new(0),
            accused: Mutex::default(),
            news: Notify::new(),
            is_barring: AtomicBool::new(false),
            barred: ArcSwap::default(),
            counts: Counts::default(),
        }
    }
}

impl Watch {
    /// Somebody at `address` has offended. `is_direct`: the address is that of our peer.
    pub fn offended(
        &self,
        plan: &Plan,
        (address, is_direct): (IpAddr, bool),
        offence: Offence,
        now: u64,
    ) {
        let source = source_of(address, plan.settings.ipv6_prefix);
        let standing = if is_direct && !plan.is_exempt(&source) {
            Standing::Counted
        } else {
            Standing::Exempt
        };
        self.counts.offences[offence.index()][standing as usize].fetch_add(1, Relaxed);
        if standing == Standing::Exempt {
            return;
        }
        self.offended.fetch_max(now.max(1), Relaxed);
        let most = plan.settings.offences[offence.index()];
        let mut part = self.part(&source).lock();
        let tally = part.offend(source, (offence, most), now, plan.within);
        drop(part);
        if let Some(tally) = tally {
            self.accuse(Accusation {
                source,
                offence,
                tally,
            });
        }
    }

    fn accuse(&self, accusation: Accusation) {
        let mut accused = self.accused.lock();
        if accused.len() >= ACCUSED {
            self.counts.lost.fetch_add(1, Relaxed);
            return;
        }
        accused.push(accusation);
        drop(accused);
        self.news.notify_one();
    }

    /// A connection of our peer at `address` has behaved well to its end.
    pub fn behaved(&self, plan: &Plan, address: IpAddr, now: u64) {
        let last = self.offended.load(Relaxed);
        if last == 0 || now.saturating_sub(last) > plan.within {
            // Nobody can be accused for whom it would count.
            return;
        }
        let source = source_of(address, plan.settings.ipv6_prefix);
        self.part(&source).lock().behave(source, now, plan.within);
    }

    /// Forgets what a source has done.
    pub fn forget(&self, source: IpNet) {
        self.part(&source).lock().forget(source);
    }

    fn part(&self, source: &IpNet) -> &Mutex<Ledger> {
        &self.parts[self.secret.hash_one(source) as usize % PARTS]
    }

    /// Waits until there are accusations.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn accused(&self) {
        while self.accused.lock().is_empty() {
            self.news.notified().await;
        }
    }

    /// The accusations that nobody has heard.
    pub fn take_accused(&self) -> Vec<Accusation> {
        std::mem::take(&mut *self.accused.lock())
    }

    /// Accusations of a kind were judged so.
    pub fn judged(&self, offence: Offence, judged: Judged) {
        self.counts.judged[offence.index()][judged as usize].fetch_add(1, Relaxed);
    }

    /// These are barred from now on. `condemned`: how many sources are condemned.
    pub fn bar(&self, barred: Barred, condemned: usize) {
        self.is_barring.store(!barred.is_empty(), Relaxed);
        self.barred.store(Arc::new(barred));
        self.counts.condemned.store(condemned as u64, Relaxed);
    }

    /// True if a connection of this address is not wanted; counts it then. The clock is read only
    /// where anybody is barred.
    #[inline]
    pub fn refuses(&self, address: IpAddr, now: impl FnOnce() -> u64) -> bool {
        self.is_barring.load(Relaxed) && self.is_refused(address, now())
    }

    fn is_refused(&self, address: IpAddr, now: u64) -> bool {
        let is_barred = self.barred.load().bars(address, now);
        self.counts.refused.fetch_add(is_barred.into(), Relaxed);
        is_barred
    }

    /// Offences of a kind so far.
    pub fn offences(&self, offence: Offence, standing: Standing) -> u64 {
        self.counts.offences[offence.index()][standing as usize].load(Relaxed)
    }

    /// Accusations of a kind that were judged so.
    pub fn judgements(&self, offence: Offence, judged: Judged) -> u64 {
        self.counts.judged[offence.index()][judged as usize].load(Relaxed)
    }

    /// Accusations that found no room.
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Relaxed)
    }

    /// Connections that were reset because their source is barred.
    pub fn refused(&self) -> u64 {
        self.counts.refused.load(Relaxed)
    }

    /// Sources that are condemned.
    pub fn condemned(&self) -> u64 {
        self.counts.condemned.load(Relaxed)
    }
}
