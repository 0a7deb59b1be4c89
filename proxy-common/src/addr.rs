//! Addresses and address prefixes as they are held in maps.

use core::mem::size_of;

/// An IPv6 address, or an IPv4 address in its mapped form, in network byte order.
///
/// Aligned to eight octets so that the kernel side compares two words instead of sixteen octets.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr {
    /// The sixteen octets, most significant first.
    pub octets: [u8; 16],
}

const _: () = assert!(size_of::<Addr>() == 16);

impl Addr {
    /// `::`, which stands for "no address".
    pub const UNSPECIFIED: Self = Self { octets: [0; 16] };

    /// Wraps an IPv4 address in its mapped form.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        // Assembled as words: octets stored one by one and then read as words would stall a CPU,
        // which cannot forward several stores to one load.
        Self::from_words([0, join([0, 0, 0xff, 0xff], octets)])
    }

    /// The address whose halves are these words in memory order.
    #[inline(always)]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self {
            // SAFETY: both types are sixteen octets of plain numbers.
            octets: unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>(words) },
        }
    }

    /// Wraps an IPv6 address.
    #[inline(always)]
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self { octets }
    }

    /// True for an IPv4 address in its mapped form.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        // As words: octet by octet the compiler takes the whole address apart.
        let [first, second] = self.words();
        first == 0 && second & join([0xff; 4], [0; 4]) == join([0, 0, 0xff, 0xff], [0; 4])
    }

    /// True for loopback and link-local addresses, which are another host's or link's elsewhere.
    #[inline(always)]
    pub const fn is_of_one_host(&self) -> bool {
        if self.is_v4() {
            let [first, second, ..] = self.low32();
            return first == 127 || first == 169 && second == 254;
        }
        let [first, second] = self.words();
        let loopback = join([0; 4], [0, 0, 0, 1]);
        // fe80::/10.
        let (mask, link) = (
            join([0xff, 0xc0, 0, 0], [0; 4]),
            join([0xfe, 0x80, 0, 0], [0; 4]),
        );
        first == 0 && second == loopback || first & mask == link
    }

    /// The last four octets: the whole of an IPv4 address.
    #[inline(always)]
    pub const fn low32(&self) -> [u8; 4] {
        // SAFETY: both types are sixteen octets of plain numbers.
        let quarters = unsafe { core::mem::transmute::<[u64; 2], [[u8; 4]; 4]>(self.words()) };
        quarters[3]
    }

    /// The two halves as words in memory order (native loads of network-order octets).
    #[inline(always)]
    pub const fn words(&self) -> [u64; 2] {
        // SAFETY: both types are sixteen octets of plain numbers.
        unsafe { core::mem::transmute::<[u8; 16], [u64; 2]>(self.octets) }
    }
}

/// Two half words side by side, in memory order.
#[inline(always)]
pub(crate) const fn join(first: [u8; 4], second: [u8; 4]) -> u64 {
    // SAFETY: both types are eight octets of plain numbers.
    unsafe { core::mem::transmute::<[[u8; 4]; 2], u64>([first, second]) }
}

impl From<core::net::IpAddr> for Addr {
    fn from(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(ip) => Self::v4(ip.octets()),
            core::net::IpAddr::V6(ip) => Self::v6(ip.octets()),
        }
    }
}

impl From<Addr> for core::net::IpAddr {
    fn from(addr: Addr) -> Self {
        if addr.is_v4() {
            core::net::IpAddr::V4(addr.low32().into())
        } else {
            core::net::IpAddr::V6(addr.octets.into())
        }
    }
}

crate::map_value!(Addr);

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;
    use std::string::ToString;

    #[test]
    fn both_families_survive_the_round_trip() {
        for text in ["192.0.2.7", "2001:db8::7", "::", "0.0.0.0"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Addr::from(ip)).to_string(), text);
        }
    }

    #[test]
    fn addresses_of_one_host_or_link_are_told() {
        for (text, is) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("169.254.1.1", true),
            ("169.253.1.1", false),
            ("128.0.0.1", false),
            ("0.0.0.0", false),
            ("::1", true),
            ("::", false),
            ("::2", false),
            ("1::1", false),
            ("fe80::1", true),
            ("febf::1", true),
            ("fec0::1", false),
            ("fd09::1", false),
        ] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Addr::from(ip).is_of_one_host(), is, "{text}");
        }
    }

    #[test]
    fn only_the_mapped_form_counts_as_v4() {
        assert!(Addr::v4([10, 0, 0, 1]).is_v4());
        assert!(!Addr::UNSPECIFIED.is_v4());
        let compatible: IpAddr = "::10.0.0.1".parse().unwrap();
        assert!(!Addr::from(compatible).is_v4());
    }
}
