//! How a client is told that its hello leads nowhere.

/// A fatal alert (RFC 8446 §6), sent before anything is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alert {
    /// A message that does not belong here.
    UnexpectedMessage,
    /// There is nothing that both sides can do.
    HandshakeFailure,
    /// A field is not as it must be.
    IllegalParameter,
    /// A message cannot be read.
    DecodeError,
    /// Nobody of this name is known (RFC 6066 §3).
    UnrecognizedName,
    /// No protocol that the client offers is spoken (RFC 7301 §3.2).
    NoApplicationProtocol,
}

impl Alert {
    /// The record, in the version that every client reads before one is agreed upon.
    pub const fn record(self) -> [u8; 7] {
        const FATAL: u8 = 2;
        [21, 3, 3, 0, 2, FATAL, self.code()]
    }

    /// Its number (IANA, "TLS Alerts").
    pub const fn code(self) -> u8 {
        match self {
            Self::UnexpectedMessage => 10,
            Self::HandshakeFailure => 40,
            Self::IllegalParameter => 47,
            Self::DecodeError => 50,
            Self::UnrecognizedName => 112,
            Self::NoApplicationProtocol => 120,
        }
    }
}
