//! The TCP probe: a connection opens.

use super::{Deadline, Target, socket};
use crate::health::outcome::Failure;

/// Connects and closes.
pub(super) async fn probe(target: Target, deadline: Deadline) -> Result<(), Failure> {
    socket::connect(target, deadline).await.map(drop)
}
