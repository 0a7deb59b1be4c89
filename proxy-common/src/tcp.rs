//! The phase of a TCP flow as far as one direction shows it.

use crate::flow::Phase;

/// TCP flag bits (RFC 9293 §3.1), as in octet 13 of the header.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field is valid.
    pub const ACK: u8 = 0x10;
}

/// True for a segment that opens a connection: SYN without ACK.
#[inline(always)]
pub const fn opens(flags: u8) -> bool {
    flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN
}

/// True for a segment that ends its connection at once.
#[inline(always)]
pub const fn resets(flags: u8) -> bool {
    flags & flag::RST != 0
}

/// True for a segment that ends its direction.
#[inline(always)]
pub const fn ends(flags: u8) -> bool {
    flags & (flag::FIN | flag::RST) != 0
}

/// Phase of a flow whose first seen segment has these flags.
#[inline(always)]
pub const fn first_phase(flags: u8) -> Phase {
    if ends(flags) {
        Phase::Closing
    } else if opens(flags) {
        Phase::Syn
    } else {
        Phase::Established
    }
}

/// Phase after a further segment. A closing flow never becomes live again: a new connection with
/// the same tuple starts with a SYN and is a new flow.
#[inline(always)]
pub const fn next_phase(phase: Phase, flags: u8) -> Phase {
    match phase {
        Phase::Udp => Phase::Udp,
        Phase::Closing => Phase::Closing,
        Phase::Syn | Phase::Established => {
            if ends(flags) {
                Phase::Closing
            } else if opens(flags) {
                phase
            } else {
                Phase::Established
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flag::*;

    #[test]
    fn a_connection_goes_through_its_phases() {
        let mut phase = first_phase(SYN);
        assert_eq!(phase, Phase::Syn);
        phase = next_phase(phase, SYN);
        assert_eq!(phase, Phase::Syn, "a repeated SYN confirms nothing");
        phase = next_phase(phase, ACK);
        assert_eq!(phase, Phase::Established);
        phase = next_phase(phase, FIN | ACK);
        assert_eq!(phase, Phase::Closing);
        assert_eq!(next_phase(phase, ACK), Phase::Closing);
    }

    #[test]
    fn a_reset_closes_at_once() {
        assert_eq!(next_phase(Phase::Syn, RST), Phase::Closing);
        assert_eq!(first_phase(RST | ACK), Phase::Closing);
    }

    #[test]
    fn only_a_bare_syn_opens() {
        assert!(opens(SYN));
        assert!(!opens(SYN | ACK));
        assert!(!opens(SYN | RST));
        assert!(!opens(ACK));
    }
}
