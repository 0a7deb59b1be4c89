//! Why a packet was passed, sent or dropped: every verdict has one of these, and a counter.

/// Declares the reasons once: code, name, what became of the packet, and the text for humans.
macro_rules! reasons {
    ($($variant:ident = $code:literal, $name:literal, $outcome:ident, $text:literal;)+) => {
        /// Reason of a verdict. The codes index the `reasons` map and appear in events.
        #[repr(u16)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $(#[doc = $text] $variant = $code,)+
        }

        impl Reason {
            /// Every reason, in code order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The reason with this code.
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }

            /// The name used as a metric label and in logs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence for operators.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// What becomes of a packet with this reason.
            pub const fn outcome(self) -> Outcome {
                match self { $(Self::$variant => Outcome::$outcome,)+ }
            }
        }
    };
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Handed to this host's network stack.
    Pass,
    /// Sent to a backend, a client or back to the sender.
    Forward,
    /// Dropped.
    Drop,
}

impl Outcome {
    /// The name used as a metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Forward => "forward",
            Self::Drop => "drop",
        }
    }
}

reasons! {
    PassNotIp = 1, "not_ip", Pass, "Neither IPv4 nor IPv6 (ARP, LLDP and the like).";
    PassNotService = 2, "not_service", Pass, "Addressed to no service.";
    PassLocal = 3, "local_service", Pass, "A service that this host serves itself.";
    PassProtocol = 4, "other_protocol", Pass, "To a VIP, but neither TCP, UDP nor an ICMP message about a balanced flow.";
    PassNoFlow = 5, "no_flow", Pass, "From a NAT backend or to a NAT source, but of no known flow.";
    PassResolve = 6, "resolve_neighbour", Pass, "Handed to the stack so that it resolves the next hop.";

    Encapsulated = 16, "encapsulated", Forward, "Sent to a backend in a tunnel.";
    Translated = 17, "translated", Forward, "Sent to a backend with its address translated.";
    Returned = 18, "returned", Forward, "A backend's answer, translated back, sent to the client.";
    Direct = 19, "direct", Forward, "Sent to a backend with only MAC addresses rewritten.";
    EchoReply = 20, "echo_reply", Forward, "An echo request to a VIP, answered.";
    IcmpError = 21, "icmp_error", Forward, "An ICMP error that quotes a balanced flow, sent to that flow's end.";
    TooBigReply = 22, "too_big_reply", Forward, "Too long for the way to the backend: the sender was told the MTU.";
    FragmentForwarded = 23, "fragment", Forward, "A later fragment that followed its first one.";
    ProbeAimed = 24, "probe", Forward, "A health probe to a VIP, sent to the backend that it is for.";

    DropTruncatedEthernet = 32, "truncated_ethernet", Drop, "Ends inside the Ethernet header.";
    DropTruncatedVlan = 33, "truncated_vlan", Drop, "Ends inside a VLAN tag.";
    DropTruncatedIp = 34, "truncated_ip", Drop, "Ends inside the IP header.";
    DropBadIpHeader = 35, "bad_ip_header", Drop, "IP version or header length is impossible.";
    DropBadIpLength = 36, "bad_ip_length", Drop, "The IP length exceeds the frame or is shorter than the header.";
    DropTruncatedExtension = 37, "truncated_extension", Drop, "Ends inside an IPv6 extension header.";
    DropTooManyExtensions = 38, "too_many_extensions", Drop, "More IPv6 extension headers than the balancer follows.";
    DropTruncatedTransport = 39, "truncated_transport", Drop, "Ends inside the TCP, UDP or ICMP header.";
    DropBadTransport = 40, "bad_transport", Drop, "The TCP header length is impossible.";
    DropTruncatedQuote = 41, "truncated_quote", Drop, "An ICMP error whose quoted packet is cut too short.";

    DropFragmentUnknown = 48, "fragment_unknown", Drop, "A later fragment whose first one was not seen.";
    DropDenied = 49, "denied", Drop, "The guard denies this source.";
    DropNotAllowed = 50, "not_allowed", Drop, "The service has an allow list and this source is not on it.";
    DropBudget = 51, "over_budget", Drop, "This source opens flows faster than its budget.";
    DropNoBackend = 52, "no_backend", Drop, "The service has no backend that takes new flows.";
    DropPortsExhausted = 53, "ports_exhausted", Drop, "No full-nat source port is free.";

    DropNoRoute = 64, "no_route", Drop, "No route to the next destination.";
    DropNoNeighbour = 65, "no_neighbour", Drop, "The next hop's MAC address is not known yet.";
    DropTooBig = 66, "too_big", Drop, "Too long for the way to the backend, and the sender could not be told.";
    DropTtlExpired = 67, "ttl_expired", Drop, "The hop limit ran out.";
    DropHeadroom = 68, "no_headroom", Drop, "The driver left no room for the outer header.";
    DropInternal = 69, "internal", Drop, "A map lacks an entry that it must have: please report this.";
    DropFamily = 70, "family_mismatch", Drop, "The backend's address family cannot carry this packet in this mode.";

    DecapPassed = 80, "decapsulated", Pass, "Tunnel header removed, inner packet handed to the stack.";
    DropDecapBadInner = 81, "decap_bad_inner", Drop, "What the tunnel carries is not an IP packet.";
    DropDecapFragment = 82, "decap_fragment", Drop, "A fragmented tunnel packet.";
    DropDecapNotAllowed = 83, "decap_not_allowed", Drop, "A tunnel packet from a source that is not a balancer.";
}

/// Elements of the `reasons` map: a power of two above every code, so that a code can be masked.
pub const REASON_SLOTS: u32 = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_and_names_are_unique_and_fit_the_map() {
        let mut names = HashSet::new();
        for &reason in Reason::ALL {
            let code = reason as u16;
            assert_eq!(Reason::from_code(code), Some(reason));
            assert!(u32::from(code) < REASON_SLOTS);
            assert!(names.insert(reason.name()), "{} twice", reason.name());
            assert!(reason.text().ends_with('.'));
        }
    }
}
