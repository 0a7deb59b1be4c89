//! Where the source addresses of `full-nat` live in `snat_addrs`.
//!
//! An address has exactly one index, because return packets find their port record by it, and
//! a service names its addresses of one family by the first index and their number. Services may
//! share addresses, so the lists must be laid out such that each is contiguous. There are at most
//! eight places: all layouts are tried, and the one that moves the fewest known addresses wins,
//! because the flows of an address that moves are lost.

use super::error::PlanError;
use proxy_common::addr::Addr;
use proxy_common::maps::capacity;
use std::collections::{BTreeMap, BTreeSet};

/// Price of moving an address that is in use.
const MOVED: u32 = 64;
/// Price of a place that another address has just left, and whose ports may still be in use.
const REUSED: u32 = 1;

/// Finds a layout in which each of `lists` is contiguous. `before` is what there is.
pub(super) fn layout(
    lists: &BTreeSet<BTreeSet<Addr>>,
    before: &BTreeMap<u32, Addr>,
) -> Result<BTreeMap<u32, Addr>, PlanError> {
    let addresses: Vec<Addr> = addresses(lists).collect();
    let places = capacity::SNAT_ADDRS as usize;
    if addresses.len() > places {
        return Err(PlanError::TooMany {
            what: "full-nat source addresses",
            wanted: addresses.len(),
            capacity: places,
            remedy: "let services share their source addresses",
        });
    }
    let index = |addr: &Addr| addresses.binary_search(addr).unwrap_or_default();
    let mut search = Search {
        lists: (lists.iter())
            .map(|list| list.iter().map(index).collect())
            .collect(),
        prices: addresses
            .iter()
            .map(|addr| prices(addr, &addresses, before))
            .collect(),
        placed: vec![None; addresses.len()],
        best: None,
    };
    search.place(0, 0, 0);
    let (_, best) = search.best.ok_or(PlanError::SnatOverlap)?;
    Ok(best.into_iter().zip(addresses).collect())
}

/// The addresses of all lists, each once, in order.
pub(super) fn addresses(lists: &BTreeSet<BTreeSet<Addr>>) -> impl Iterator<Item = Addr> {
    let distinct: BTreeSet<Addr> = lists.iter().flatten().copied().collect();
    distinct.into_iter()
}

/// First index and number of the addresses of a list; (0, 0) for an empty one.
pub(super) fn range(list: &BTreeSet<Addr>, layout: &BTreeMap<u32, Addr>) -> (u8, u8) {
    let first = layout.iter().find(|(_, addr)| list.contains(addr));
    match first {
        Some((&first, _)) => (first as u8, list.len() as u8),
        None => (0, 0),
    }
}

/// What each place costs for this address.
fn prices(addr: &Addr, wanted: &[Addr], before: &BTreeMap<u32, Addr>) -> Vec<u32> {
    let is_placed = before.values().any(|known| known == addr);
    (0..capacity::SNAT_ADDRS)
        .map(|place| match before.get(&place) {
            Some(known) if known == addr => 0,
            _ if is_placed => MOVED,
            Some(known) if !wanted.contains(known) => REUSED,
            _ => 0,
        })
        .collect()
}

/// Depth-first search over all layouts, cut off at the best price so far.
struct Search {
    lists: Vec<Vec<usize>>,
    prices: Vec<Vec<u32>>,
    placed: Vec<Option<u32>>,
    best: Option<(u32, Vec<u32>)>,
}

impl Search {
    fn place(&mut self, address: usize, used: u32, price: u32) {
        if self.best.as_ref().is_some_and(|(best, _)| price >= *best) {
            return;
        }
        let Some(prices) = self.prices.get(address) else {
            self.best = Some((price, self.placed.iter().flatten().copied().collect()));
            return;
        };
        let prices = prices.clone();
        for place in 0..capacity::SNAT_ADDRS {
            if used & 1 << place != 0 {
                continue;
            }
            self.placed[address] = Some(place);
            if self.lists.iter().all(|list| self.may_be_contiguous(list)) {
                let price = price + prices[place as usize];
                self.place(address + 1, used | 1 << place, price);
            }
        }
        self.placed[address] = None;
    }

    /// False once the placed addresses of a list lie too far apart.
    fn may_be_contiguous(&self, list: &[usize]) -> bool {
        let places = list.iter().filter_map(|&address| self.placed[address]);
        match (places.clone().min(), places.max()) {
            (Some(first), Some(last)) => (last - first) < list.len() as u32,
            _ => true,
        }
    }
}
