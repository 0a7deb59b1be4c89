//! CRC-32C (Castagnoli), as RFC 9260 Appendix A has it: for the few octets of a header, an octet
//! at a time is quick enough.

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut octet = 0;
    while octet < 256 {
        let mut rest = octet as u32;
        let mut bit = 0;
        while bit < 8 {
            rest = (rest >> 1) ^ (0x82f6_3b78 * (rest & 1));
            bit += 1;
        }
        table[octet] = rest;
        octet += 1;
    }
    table
}

/// The checksum of parts, one after the other.
pub(super) fn of<const N: usize>(parts: [&[u8]; N]) -> u32 {
    let octets = parts.into_iter().flatten();
    !octets.fold(u32::MAX, |rest, octet| {
        (rest >> 8) ^ TABLE[usize::from(rest as u8 ^ octet)]
    })
}
