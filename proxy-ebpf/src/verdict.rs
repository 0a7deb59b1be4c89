//! What becomes of a packet, and why.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use proxy_common::reason::{Outcome, Reason};

/// The end of a packet's way. It must be returned: a verdict that is made and forgotten would
/// let the packet go on.
#[must_use]
#[derive(Clone, Copy)]
pub struct Verdict {
    /// XDP action.
    pub action: u32,
    /// Why.
    pub reason: u16,
    /// Service id, 0 for none.
    pub service: u16,
    /// Backend id, 0 for none.
    pub backend: u16,
}

impl Verdict {
    /// Passes or drops, as the reason's outcome says.
    #[inline(always)]
    pub const fn of(reason: Reason) -> Self {
        let action = match reason.outcome() {
            Outcome::Pass => XDP_PASS,
            Outcome::Forward | Outcome::Drop => XDP_DROP,
        };
        Self {
            action,
            reason: reason as u16,
            service: 0,
            backend: 0,
        }
    }

    /// Sends the packet with this XDP action.
    #[inline(always)]
    pub const fn send(reason: Reason, action: u32) -> Self {
        Self {
            action,
            reason: reason as u16,
            service: 0,
            backend: 0,
        }
    }

    /// Names the service.
    #[inline(always)]
    pub const fn for_service(self, service: u16) -> Self {
        Self { service, ..self }
    }

    /// Names service and backend.
    #[inline(always)]
    pub const fn with(self, service: u16, backend: u16) -> Self {
        Self {
            service,
            backend,
            ..self
        }
    }

    /// As one word, the only thing that a function of the kernel's machine can return.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.action as u64
            | (self.reason as u64) << 16
            | (self.service as u64) << 32
            | (self.backend as u64) << 48
    }

    /// The reverse of [`Self::pack`].
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            action: (word & 0xffff) as u32,
            reason: (word >> 16) as u16,
            service: (word >> 32) as u16,
            backend: (word >> 48) as u16,
        }
    }
}

/// A stage's value, or the verdict that ends the packet's way.
pub type Stage<T> = Result<T, Verdict>;

/// Shorthand for a stage that ends with this reason.
#[inline(always)]
pub const fn end<T>(reason: Reason) -> Stage<T> {
    Err(Verdict::of(reason))
}
