//! Defaults of the key `mesh`.

use std::time::Duration;

/// How long a client may be silent. Whoever connects first and asks later should rarely be taken
/// for one whose server speaks first; those are named by their ports.
pub(crate) const DETECT: Duration = Duration::from_secs(1);

/// Ports of protocols in which the server speaks first: FTP, SSH, SMTP, POP3, IMAP, submission, MySQL and
/// NATS.
pub(crate) const OPAQUE: [u16; 8] = [21, 22, 25, 110, 143, 587, 3306, 4222];
