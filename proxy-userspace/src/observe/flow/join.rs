//! The stages of a flow, kept until it is clear whether an observer wants them, and then told together.
//!
//! Stages come one by one, those of all flows mixed. Whether somebody who asked for 5xx wants a flow's
//! first packet is not known before its status. So what is noted waits: the stages of a request
//! until that is over, those of a connection until one of its requests is wanted, or, where
//! they alone meet the filter, for a moment. What takes longer is told as far as it has come, so that
//! a request that hangs is seen to hang.
//!
//! Bounded in flows, requests and stages; what finds no room is given up, oldest first, and counted.

use super::{Filter, FlowStage, Stage};
use proxy_common::reason::Reason;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

/// How long the stages of something that goes on wait for others.
const HOLD: Duration = Duration::from_millis(300);

/// How long a flow of which nothing more is noted is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Flows that are remembered.
const FLOWS: usize = 4096;

/// Requests under way of one flow.
const REQUESTS: usize = 128;

/// Stages of a connection or of a request.
const STAGES: usize = 32;

/// What one observer waits for.
#[derive(Debug, Default)]
pub struct Joiner {
    filter: Filter,
    flows: HashMap<String, Held>,
    /// By when they came; flows that are gone may be among them.
    order: VecDeque<String>,
    given_up: u64,
}

/// What is known of a flow.
#[derive(Debug, Default)]
struct Held {
    /// Stages of the connection, and how many of them were told.
    connection: Vec<FlowStage>,
    told: usize,
    requests: BTreeMap<u64, Pending>,
    since: Duration,
    last: Duration,
}

/// A request that is not over.
#[derive(Debug, Default)]
struct Pending {
    stages: Vec<FlowStage>,
    told: usize,
    since: Duration,
}

impl Joiner {
    /// For an observer who wants this.
    pub fn new(filter: Filter) -> Self {
        Self {
            filter,
            ..Self::default()
        }
    }

    /// Takes a stage that came at `now`, since any moment; appends to `out` what is to be told.
    pub fn take(&mut self, stage: FlowStage, now: Duration, out: &mut Vec<FlowStage>) {
        let Self {
            filter,
            flows,
            order,
            given_up,
        } = self;
        let held = flows.entry(stage.id.clone()).or_insert_with(|| {
            order.push_back(stage.id.clone());
            Held {
                since: now,
                ..Held::default()
            }
        });
        held.last = now;
        let is_last = stage.stage.is_last();
        match stage.request {
            None => {
                if held.told == held.connection.len() {
                    held.since = now;
                }
                *given_up += keep(&mut held.connection, &mut held.told, stage);
                if is_last && filter.accepts(held.connection.iter()) {
                    held.tell_connection(out);
                }
            }
            Some(number) => {
                if held.requests.len() >= REQUESTS && !held.requests.contains_key(&number) {
                    *given_up += held.requests.pop_first().map_or(0, |_| 1);
                }
                let pending = held.requests.entry(number).or_insert_with(|| Pending {
                    since: now,
                    ..Pending::default()
                });
                *given_up += keep(&mut pending.stages, &mut pending.told, stage);
                if is_last && let Some(request) = held.requests.remove(&number) {
                    let all = held.connection.iter().chain(&request.stages);
                    if filter.accepts(all) {
                        held.tell_connection(out);
                        out.extend(request.stages.into_iter().skip(request.told));
                    }
                }
            }
        }
        self.bound();
    }

    /// Time has passed: tells of what waits for long, and forgets what is over.
    pub fn tick(&mut self, now: Duration, out: &mut Vec<FlowStage>) {
        let waited = |since: Duration| now.saturating_sub(since) >= HOLD;
        let filter = &self.filter;
        // In the order in which they came, so that a reader can follow.
        for id in &self.order {
            let Some(held) = self.flows.get_mut(id) else {
                continue;
            };
            let has_more = held.told < held.connection.len();
            let is_ours = filter.wants_strangers() || held.connection.iter().any(is_ours);
            let is_wanted = held.told > 0 || (is_ours && filter.accepts(held.connection.iter()));
            if has_more && waited(held.since) && is_wanted {
                held.tell_connection(out);
            }
            let mut requests = std::mem::take(&mut held.requests);
            for request in requests.values_mut() {
                let has_more = request.told < request.stages.len();
                let all = held.connection.iter().chain(&request.stages);
                if has_more && waited(request.since) && filter.accepts(all) {
                    held.tell_connection(out);
                    out.extend(request.stages.iter().skip(request.told).cloned());
                    request.told = request.stages.len();
                }
            }
            held.requests = requests;
        }
        let is_over =
            |held: &Held| held.requests.is_empty() && now.saturating_sub(held.last) >= REMEMBERED;
        self.flows.retain(|_, held| !is_over(held));
        let flows = &self.flows;
        self.order.retain(|id| flows.contains_key(id));
    }

    /// Tells of all that waits, if it is wanted: nothing more will come.
    pub fn finish(&mut self, out: &mut Vec<FlowStage>) {
        self.tick(Duration::MAX, out);
    }

    /// Stages that were given up for want of room since the last call.
    pub fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }

    fn bound(&mut self) {
        while self.flows.len() > FLOWS {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if let Some(held) = self.flows.remove(&oldest) {
                let waiting = held.connection.len() - held.told;
                let requests = held.requests.values().map(|it| it.stages.len() - it.told);
                self.given_up += (waiting + requests.sum::<usize>()) as u64;
            }
        }
    }
}

impl Held {
    fn tell_connection(&mut self, out: &mut Vec<FlowStage>) {
        // An accept may come before its packet, by another way.
        let untold = self.connection.get_mut(self.told..).unwrap_or_default();
        untold.sort_by(|a, b| a.time_seconds.total_cmp(&b.time_seconds));
        out.extend(self.connection.iter().skip(self.told).cloned());
        self.told = self.connection.len();
    }
}

/// False for packets that are neither a service's nor, as long as nobody accepts them, a listener's:
/// this host's other traffic, answers to its own connections among it.
fn is_ours(flow: &FlowStage) -> bool {
    !matches!(&flow.stage, Stage::Packet(packet) if packet.reason == Reason::PassNotService.name())
}

/// Keeps a stage; the first ones say who it is, so of many the later ones make room. Returns how many
/// were given up untold.
fn keep(stages: &mut Vec<FlowStage>, told: &mut usize, stage: FlowStage) -> u64 {
    let mut given_up = 0;
    if stages.len() >= STAGES {
        let at = STAGES / 2;
        stages.remove(at);
        match at < *told {
            true => *told -= 1,
            false => given_up = 1,
        }
    }
    stages.push(stage);
    given_up
}
