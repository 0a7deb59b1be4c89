//! Metrics of certificates that look after themselves.

use crate::observe::certificates::CertificateBoard;
use crate::observe::families::Families;
use crate::observe::names;
use std::fmt;

/// Writes them.
pub(super) fn export(board: &CertificateBoard, out: &mut Families<'_, '_>) -> fmt::Result {
    let issued = board.issued();
    let orders = issued.iter().flat_map(|(name, state)| {
        let counts = [("ok", state.fulfilled), ("failed", state.failed)];
        counts.map(|(result, count)| ([name.as_str(), result], count.into()))
    });
    out.many(names::ACME_ORDERS, orders)?;
    let next = issued.iter().map(|(name, state)| {
        let next = state.next_order.max(0).unsigned_abs();
        ([name.as_str()], next.into())
    });
    out.many(names::ACME_NEXT_ORDER, next)?;
    let staples = board.staples();
    let requests = staples.values().flat_map(|state| {
        let counts = [("ok", state.answered), ("failed", state.failed)];
        let labels = [state.name.as_str(), state.serial.as_str()];
        counts.map(move |(result, count)| ([labels[0], labels[1], result], count.into()))
    });
    out.many(names::OCSP_REQUESTS, requests)?;
    let revoked = staples.values().map(|state| {
        let is_revoked = u64::from(state.status == "revoked");
        let labels = [state.name.as_str(), state.serial.as_str()];
        (labels, is_revoked.into())
    });
    out.many(names::OCSP_REVOKED, revoked)?;
    let stapled = staples.values().filter_map(|state| {
        let until = state.stapled_until?.max(0).unsigned_abs();
        Some(([state.name.as_str(), state.serial.as_str()], until.into()))
    });
    out.many(names::OCSP_STAPLED_UNTIL, stapled)
}

#[cfg(test)]
pub(in crate::observe) mod testing {
    use super::*;
    use std::sync::Arc;

    /// A board with something in each family.
    pub(in crate::observe) fn board() -> Arc<CertificateBoard> {
        let board = CertificateBoard::default();
        board.issue("a.test", |state| state.fulfilled = 1);
        board.staple("ff", |state| state.stapled_until = Some(7));
        Arc::new(board)
    }
}
