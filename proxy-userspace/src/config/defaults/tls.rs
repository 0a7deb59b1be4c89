//! Defaults of the sections `tls`.

use std::time::Duration;

/// How long a handshake may take.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes of a worker at once.
pub(crate) const MAX_HANDSHAKES: u32 = 2048;

/// Sessions that are kept at a listener. One takes about 1 KiB.
pub(crate) const SESSION_CACHE: u32 = 16_384;

/// How long a ticket is good.
pub(crate) const TICKET_LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// Certificates between a client's own and the authority's.
pub(crate) const CLIENT_DEPTH: u32 = 3;
