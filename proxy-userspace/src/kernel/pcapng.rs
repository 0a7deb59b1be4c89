//! Writes pcapng files (draft-ietf-opsawg-pcapng): one section, one interface description per
//! interface and direction, one enhanced packet block per packet, with nanosecond times, the
//! direction and a comment.
//!
//! Blocks are little-endian whatever the machine, as the byte-order magic then says.

use std::io::{self, Write};

/// Block types.
mod block {
    pub(super) const SECTION: u32 = 0x0a0d_0d0a;
    pub(super) const INTERFACE: u32 = 1;
    pub(super) const PACKET: u32 = 6;
}

/// Option codes; those from 2 on depend on the block.
mod option {
    pub(super) const END: u16 = 0;
    pub(super) const COMMENT: u16 = 1;
    pub(super) const SECTION_APPLICATION: u16 = 4;
    pub(super) const INTERFACE_NAME: u16 = 2;
    pub(super) const INTERFACE_TIME_RESOLUTION: u16 = 9;
    pub(super) const PACKET_FLAGS: u16 = 2;
}

/// Which way a packet went, as `epb_flags` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// It arrived.
    Inbound,
    /// It left.
    Outbound,
}

impl Direction {
    const fn flags(self) -> u32 {
        match self {
            Self::Inbound => 1,
            Self::Outbound => 2,
        }
    }
}

/// A packet to write.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Number of its interface, as [`Writer::interface`] gave it.
    pub interface: u32,
    /// Wall-clock nanoseconds since 1970.
    pub time_ns: u64,
    /// Octets that it had on the wire.
    pub length: u32,
    /// Its first octets.
    pub data: &'a [u8],
    /// Which way it went.
    pub direction: Direction,
    /// A comment, if not empty.
    pub comment: &'a str,
}

/// Writes one file.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    interfaces: u32,
}

/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;
/// Time resolution: 10^-9 seconds.
const NANOSECONDS: u8 = 9;

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn new(mut out: W, application: &str) -> io::Result<Self> {
        let mut body = Vec::new();
        body.extend(0x1a2b_3c4d_u32.to_le_bytes());
        body.extend(1u16.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        // Length of the section: not known beforehand.
        body.extend(u64::MAX.to_le_bytes());
        push_option(
            &mut body,
            option::SECTION_APPLICATION,
            application.as_bytes(),
        );
        end_options(&mut body);
        write_block(&mut out, block::SECTION, &body)?;
        Ok(Self { out, interfaces: 0 })
    }

    /// Describes an Ethernet interface whose packets are cut to `snap_octets`; returns its number.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn interface(&mut self, name: &str, snap_octets: u32) -> io::Result<u32> {
        let mut body = Vec::new();
        body.extend(ETHERNET.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        body.extend(snap_octets.to_le_bytes());
        push_option(&mut body, option::INTERFACE_NAME, name.as_bytes());
        push_option(&mut body, option::INTERFACE_TIME_RESOLUTION, &[NANOSECONDS]);
        end_options(&mut body);
        write_block(&mut self.out, block::INTERFACE, &body)?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    /// Writes a packet.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let mut body = Vec::with_capacity(packet.data.len() + 96);
        body.extend(packet.interface.to_le_bytes());
        body.extend(((packet.time_ns >> 32) as u32).to_le_bytes());
        body.extend((packet.time_ns as u32).to_le_bytes());
        body.extend((packet.data.len() as u32).to_le_bytes());
        body.extend(packet.length.to_le_bytes());
        body.extend(packet.data);
        pad(&mut body);
        if !packet.comment.is_empty() {
            push_option(&mut body, option::COMMENT, packet.comment.as_bytes());
        }
        let flags = packet.direction.flags().to_le_bytes();
        push_option(&mut body, option::PACKET_FLAGS, &flags);
        end_options(&mut body);
        write_block(&mut self.out, block::PACKET, &body)
    }

    /// Flushes the output.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Fills up to a multiple of four octets.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Appends an option; a value beyond the format's 65535 octets is cut.
fn push_option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    body.extend(code.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(&value[..usize::from(length)]);
    pad(body);
}

fn end_options(body: &mut Vec<u8>) {
    push_option(body, option::END, &[]);
}

/// Writes a block: its type, its length, its body, its length again.
fn write_block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&length)?;
    out.write_all(body)?;
    out.write_all(&length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u32_at(octets: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(octets[at..at + 4].try_into().unwrap())
    }

    /// Splits a file into (type, body), checking both lengths of each block.
    fn blocks(mut octets: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut blocks = Vec::new();
        while !octets.is_empty() {
            let length = u32_at(octets, 4) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(u32_at(octets, length - 4) as usize, length);
            blocks.push((u32_at(octets, 0), octets[8..length - 4].to_vec()));
            octets = &octets[length..];
        }
        blocks
    }

    /// Splits options into (code, value).
    fn options(mut octets: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut options = Vec::new();
        loop {
            let code = u16::from_le_bytes([octets[0], octets[1]]);
            let length = usize::from(u16::from_le_bytes([octets[2], octets[3]]));
            if code == option::END {
                assert_eq!(octets.len(), 4);
                return options;
            }
            options.push((code, octets[4..4 + length].to_vec()));
            octets = &octets[4 + length.next_multiple_of(4)..];
        }
    }

    pub(super) fn sample() -> Vec<u8> {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, "sluice test").unwrap();
        let eth0 = writer.interface("eth0 (in)", 1536).unwrap();
        assert_eq!(writer.interface("eth0 (out)", 1536).unwrap(), 1);
        let mut frame = vec![0x02; 12];
        frame.extend([0x08, 0x06, 0, 1, 8]);
        writer
            .packet(&Packet {
                interface: eth0,
                time_ns: 1_700_000_000_123_456_789,
                length: 60,
                data: &frame,
                direction: Direction::Inbound,
                comment: "dropped: denied",
            })
            .unwrap();
        writer.flush().unwrap();
        file
    }

    #[test]
    fn blocks_and_options_are_as_the_draft_says() {
        let blocks = blocks(&sample());
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [0x0a0d_0d0a, 1, 1, 6]);
        assert_eq!(u32_at(&blocks[0].1, 0), 0x1a2b_3c4d);
        assert_eq!(
            options(&blocks[1].1[8..]),
            [(2, b"eth0 (in)".to_vec()), (9, vec![9])]
        );
        let packet = &blocks[3].1;
        let time = u64::from(u32_at(packet, 4)) << 32 | u64::from(u32_at(packet, 8));
        assert_eq!(time, 1_700_000_000_123_456_789);
        assert_eq!((u32_at(packet, 12), u32_at(packet, 16)), (17, 60));
        assert_eq!(
            options(&packet[20 + 20..]),
            [(1, b"dropped: denied".to_vec()), (2, vec![1, 0, 0, 0])]
        );
    }

    #[test]
    fn another_tool_reads_the_file() {
        use std::process::Command;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), sample()).unwrap();
        let tcpdump = Command::new("tcpdump")
            .args(["-nn", "-tt", "--nano", "-r"])
            .arg(file.path())
            .output();
        let Ok(output) = tcpdump else {
            eprintln!("skipped: tcpdump is not installed");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.starts_with("1700000000.123456789"), "{output:?}");
    }
}
