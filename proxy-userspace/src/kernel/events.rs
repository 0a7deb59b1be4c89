//! Reads the ring buffers of the packet path: sampled events and captured packets.
//!
//! A ring has one consumer position, which lives in the kernel: there must be one reader of each
//! ring, the daemon. Both readers are for use within a tokio runtime.

use super::handle::MapHandle;
use super::set::MapSet;
use super::store::StoreError;
use aya::maps::{Map, MapData, RingBuf};
use proxy_common::event::{CAPTURE_OCTETS, CaptureHeader, Event};
use proxy_common::maps;
use std::io;
use std::mem::size_of;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A ring, read asynchronously.
struct Ring {
    fd: AsyncFd<RingBuf<MapData>>,
}

impl Ring {
    fn open(map: MapHandle) -> io::Result<Self> {
        let other = |error| io::Error::other(format!("{error}"));
        let data = MapData::from_fd(map.into_fd()).map_err(other)?;
        let map = Map::from_map_data(data).map_err(other)?;
        let ring = RingBuf::try_from(map).map_err(other)?;
        // SAFETY: the ring owns its map and thereby the descriptor: it stays open, and the same,
        // until the ring is dropped, which the `AsyncFd` then owns.
        let fd = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        Ok(Self { fd })
    }

    /// The next record that `parse` accepts. Others are of a foreign length, and skipped.
    ///
    /// Cancel safe: a record is taken and returned without waiting in between.
    async fn next<T>(&mut self, parse: impl Fn(&[u8]) -> Option<T>) -> io::Result<T> {
        loop {
            let mut guard = self.fd.readable_mut().await?;
            while let Some(record) = guard.get_inner_mut().next() {
                if let Some(parsed) = parse(&record) {
                    return Ok(parsed);
                }
            }
            // Only now: a wake-up that arrived since is not cleared by this.
            guard.clear_ready();
        }
    }
}

fn open(set: &MapSet, name: &'static str) -> Result<Ring, StoreError> {
    Ring::open(set.clone_of(name)?).map_err(|source| StoreError {
        call: "open",
        map: name,
        source,
    })
}

/// Reads sampled events.
pub struct EventReader {
    ring: Ring,
}

impl EventReader {
    pub(crate) fn open(set: &MapSet) -> Result<Self, StoreError> {
        let ring = open(set, maps::EVENTS)?;
        Ok(Self { ring })
    }

    /// Waits for the next event.
    ///
    /// # Errors
    ///
    /// The runtime's I/O driver is gone.
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses nothing.
    pub async fn next(&mut self) -> io::Result<Event> {
        self.ring.next(parse_event).await
    }
}

/// A captured packet, on one side of the balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedPacket {
    /// What it is.
    pub header: CaptureHeader,
    /// Its first octets, from the Ethernet header on.
    pub data: Vec<u8>,
}

/// Reads captured packets.
pub struct CaptureReader {
    ring: Ring,
}

impl CaptureReader {
    pub(crate) fn open(set: &MapSet) -> Result<Self, StoreError> {
        let ring = open(set, maps::CAPTURE)?;
        Ok(Self { ring })
    }

    /// Waits for the next packet.
    ///
    /// # Errors
    ///
    /// The runtime's I/O driver is gone.
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses nothing.
    pub async fn next(&mut self) -> io::Result<CapturedPacket> {
        self.ring.next(parse_capture).await
    }
}

fn parse_event(octets: &[u8]) -> Option<Event> {
    let octets = octets.first_chunk::<{ size_of::<Event>() }>()?;
    // SAFETY: `Event` is `repr(C)`, of integers without hidden padding, and of this very size.
    Some(unsafe { std::mem::transmute::<[u8; size_of::<Event>()], Event>(*octets) })
}

fn parse_capture(octets: &[u8]) -> Option<CapturedPacket> {
    const HEAD: usize = size_of::<CaptureHeader>();
    let (head, data) = octets.split_first_chunk::<HEAD>()?;
    // SAFETY: `CaptureHeader` is `repr(C)`, of integers without hidden padding, and of this size.
    let header = unsafe { std::mem::transmute::<[u8; HEAD], CaptureHeader>(*head) };
    let captured = header.captured.min(header.length) as usize;
    let data = data.get(..captured.min(CAPTURE_OCTETS).min(data.len()))?;
    Some(CapturedPacket {
        header,
        data: data.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_record_is_refused() {
        assert_eq!(parse_event(&[0; size_of::<Event>() - 1]), None);
        assert_eq!(parse_capture(&[0; 31]), None);
    }

    #[test]
    fn an_event_is_read_field_by_field() {
        let mut octets = [0u8; size_of::<Event>()];
        octets[..8].copy_from_slice(&77u64.to_ne_bytes());
        octets[40..44].copy_from_slice(&1500u32.to_ne_bytes());
        octets[58] = 17;
        let event = parse_event(&octets).unwrap();
        assert_eq!(
            (event.time_ns, event.length, event.protocol),
            (77, 1500, 17)
        );
    }

    #[test]
    fn a_captured_packet_is_cut_to_what_was_captured() {
        let mut octets = vec![0u8; size_of::<CaptureHeader>()];
        octets[8..12].copy_from_slice(&3u32.to_ne_bytes());
        octets[12..16].copy_from_slice(&3u32.to_ne_bytes());
        octets.extend([1, 2, 3, 0, 0, 0]);
        assert_eq!(parse_capture(&octets).unwrap().data, [1, 2, 3]);
    }
}
