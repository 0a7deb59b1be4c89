//! Where the running kernel keeps what no helper tells, from its type information (BTF).
//!
//! Only structures and their members are looked at. What does not fit the format is an error and
//! never a guess: the programs read kernel memory at these places.

use proxy_common::connect::Layout;
use proxy_common::sock::Offsets;
use std::collections::HashMap;
use std::io;

/// The kernel's type information does not say.
#[derive(Debug, thiserror::Error)]
pub enum OffsetError {
    /// There is none.
    #[error("cannot read /sys/kernel/btf/vmlinux: the kernel needs CONFIG_DEBUG_INFO_BTF")]
    NoTypes(#[source] io::Error),
    /// It is in another format.
    #[error("the kernel's type information is not as expected")]
    Malformed,
    /// It lacks something.
    #[error("this kernel's `{0}` is not where it was expected")]
    Missing(&'static str),
}

/// The offsets in the running kernel.
///
/// # Errors
///
/// [`OffsetError`].
pub fn offsets() -> Result<Offsets, OffsetError> {
    find(&kernel_types()?)
}

/// Where the running kernel keeps what TCP counts.
///
/// # Errors
///
/// [`OffsetError`].
pub(super) fn layout() -> Result<Layout, OffsetError> {
    find_layout(&kernel_types()?)
}

fn kernel_types() -> Result<Vec<u8>, OffsetError> {
    std::fs::read("/sys/kernel/btf/vmlinux").map_err(OffsetError::NoTypes)
}

fn find(types: &[u8]) -> Result<Offsets, OffsetError> {
    let types = Types::parse(types).ok_or(OffsetError::Malformed)?;
    let of = |structure, path: &'static [&'static str]| {
        let member = types.offset(structure, path);
        member.ok_or(OffsetError::Missing(path[path.len() - 1]))
    };
    let at = |path| of("tcp_sock", path);
    const SOCK: [&str; 3] = ["inet_conn", "icsk_inet", "sk"];
    const COOKIE: &[&str] = &[SOCK[0], SOCK[1], SOCK[2], "__sk_common", "skc_cookie"];
    const QUEUED: &[&str] = &[SOCK[0], SOCK[1], SOCK[2], "sk_backlog", "rmem_alloc"];
    const ROOM: &[&str] = &[SOCK[0], SOCK[1], SOCK[2], "sk_rcvbuf"];
    const STATE: &[&str] = &[SOCK[0], SOCK[1], SOCK[2], "__sk_common", "skc_state"];
    const SOCKET: &[&str] = &[SOCK[0], SOCK[1], SOCK[2], "sk_socket"];
    Ok(Offsets {
        cookie: at(COOKIE)?,
        queued: at(QUEUED)?,
        room: at(ROOM)?,
        copied_seq: at(&["copied_seq"])?,
        write_seq: at(&["write_seq"])?,
        state: at(STATE)?,
        socket: at(SOCKET)?,
        file: of("socket", &["file"])?,
        file_flags: of("file", &["f_flags"])?,
        is_on: 0,
        joins: 0,
    })
}

fn find_layout(types: &[u8]) -> Result<Layout, OffsetError> {
    let types = Types::parse(types).ok_or(OffsetError::Malformed)?;
    let at = |path: &'static [&'static str]| {
        let member = types.offset("tcp_sock", path);
        member.ok_or(OffsetError::Missing(path[path.len() - 1]))
    };
    Ok(Layout {
        is_known: 1,
        segments: at(&["data_segs_out"])?,
        retransmits: at(&["total_retrans"])?,
        delivered: at(&["delivered"])?,
        disordered: at(&["rcv_ooopack"])?,
        round_trip: at(&["srtt_us"])?,
        written: at(&["write_seq"])?,
        acknowledged: at(&["snd_una"])?,
        window: at(&["snd_wnd"])?,
        error: at(&["inet_conn", "icsk_inet", "sk", "sk_err"])?,
    })
}

/// A structure's or union's members.
struct Members<'a> {
    entries: &'a [u8],
    /// Offsets share their word with a bit field's size.
    with_sizes: bool,
}

/// The types of a BTF blob.
struct Types<'a> {
    strings: &'a [u8],
    /// By id.
    members: HashMap<u32, Members<'a>>,
    /// What a type with another name or qualifier stands for, by id.
    stands_for: HashMap<u32, u32>,
    names: HashMap<&'a [u8], u32>,
}

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const MEMBER_OCTETS: usize = 12;
/// How deep members without a name and types of types are followed.
const DEEPEST: u32 = 16;

impl<'a> Types<'a> {
    fn parse(blob: &'a [u8]) -> Option<Self> {
        if word(blob, 0)? & 0xffff != 0xeb9f {
            return None;
        }
        let part = |offset: usize, length: usize| {
            let start = (word(blob, 4)? as usize).checked_add(word(blob, offset)? as usize)?;
            blob.get(start..start.checked_add(word(blob, length)? as usize)?)
        };
        let (mut rest, strings) = (part(8, 12)?, part(16, 20)?);
        let mut types = Self {
            strings,
            members: HashMap::new(),
            stands_for: HashMap::new(),
            names: HashMap::new(),
        };
        let mut id = 0;
        while !rest.is_empty() {
            id += 1;
            let (name, info, other) = (word(rest, 0)?, word(rest, 4)?, word(rest, 8)?);
            let (count, kind) = ((info & 0xffff) as usize, info >> 24 & 0x1f);
            let more = match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                KIND_STRUCT | KIND_UNION | 15 | 19 => count * MEMBER_OCTETS,
                6 | 13 => count * 8,
                2 | 7..=12 | 16 | 18 => 0,
                _ => return None,
            };
            let entries = rest.get(12..12 + more)?;
            match kind {
                KIND_STRUCT | KIND_UNION => {
                    let with_sizes = info >> 31 == 1;
                    let members = Members {
                        entries,
                        with_sizes,
                    };
                    types.members.insert(id, members);
                    if kind == KIND_STRUCT && name != 0 {
                        types.names.entry(types.name(name)?).or_insert(id);
                    }
                }
                8..=11 | 18 => {
                    types.stands_for.insert(id, other);
                }
                _ => {}
            }
            rest = &rest[12 + more..];
        }
        Some(types)
    }

    fn name(&self, at: u32) -> Option<&'a [u8]> {
        let from = self.strings.get(at as usize..)?;
        from.split(|&octet| octet == 0).next()
    }

    /// Octets from the start of a structure to a member of a member.
    fn offset(&self, structure: &str, path: &[&str]) -> Option<u32> {
        let mut id = *self.names.get(structure.as_bytes())?;
        let mut bits = 0u32;
        for name in path {
            let (further, next) = self.member(id, name.as_bytes(), DEEPEST)?;
            bits = bits.checked_add(further)?;
            id = next;
        }
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Offset in bits and type of a member, also of one inside members without a name.
    fn member(&self, mut id: u32, name: &[u8], depth: u32) -> Option<(u32, u32)> {
        for _ in 0..DEEPEST {
            id = self.stands_for.get(&id).copied().unwrap_or(id);
        }
        let Members {
            entries,
            with_sizes,
        } = self.members.get(&id)?;
        for entry in entries.chunks_exact(MEMBER_OCTETS) {
            let (called, kind, mut bits) = (word(entry, 0)?, word(entry, 4)?, word(entry, 8)?);
            if *with_sizes {
                bits &= 0x00ff_ffff;
            }
            if self.name(called)? == name {
                return Some((bits, kind));
            }
            if called == 0 && depth > 0 {
                let inside = self.member(kind, name, depth - 1);
                if let Some((further, kind)) = inside {
                    return Some((bits.checked_add(further)?, kind));
                }
            }
        }
        None
    }
}

/// A word at an offset, in this host's order as the kernel writes them.
fn word(octets: &[u8], at: usize) -> Option<u32> {
    let four = octets.get(at..at + 4)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct tcp_sock { int; struct { int; int copied_seq } }`, as BTF.
    fn blob() -> Vec<u8> {
        let strings = b"\0tcp_sock\0copied_seq\0int\0";
        let mut types: Vec<u32> = vec![21, 1 << 24, 4, 32];
        types.extend([0, KIND_STRUCT << 24 | 2, 8, 21, 1, 0, 10, 1, 32]);
        types.extend([1, KIND_STRUCT << 24 | 2, 12, 21, 1, 0, 0, 2, 32]);
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let lengths = [0, types.len(), types.len(), strings.len()];
        let mut blob = [0x9f, 0xeb, 1, 0, 24, 0, 0, 0].to_vec();
        blob.extend(lengths.iter().flat_map(|&it| (it as u32).to_ne_bytes()));
        blob.extend(types);
        blob.extend(strings);
        blob
    }

    #[test]
    fn a_member_is_found_inside_one_without_a_name() {
        let blob = blob();
        let types = Types::parse(&blob).expect("well-formed");
        assert_eq!(types.offset("tcp_sock", &["copied_seq"]), Some(8));
        assert_eq!(types.offset("tcp_sock", &["write_seq"]), None);
        assert_eq!(types.offset("sock", &["copied_seq"]), None);
        assert!(matches!(find(&blob), Err(OffsetError::Missing(_))));
        let layout = find_layout(&blob);
        assert!(matches!(layout, Err(OffsetError::Missing("data_segs_out"))));
    }

    #[test]
    fn what_is_cut_short_is_refused_or_lacks_something() {
        let blob = blob();
        for end in 0..blob.len() {
            assert!(find(&blob[..end]).is_err(), "cut at {end}");
            assert!(find_layout(&blob[..end]).is_err(), "cut at {end}");
        }
    }
}
