//! A system call that names an address, as the programs on cgroups see it.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use core::ffi::c_void;
use core::mem::offset_of;
use proxy_common::addr::Addr;

/// The call names an IPv4 address.
pub const V4: bool = false;
/// The call names an IPv6 address, or an IPv4 one in its mapped form.
pub const V6: bool = true;

/// A call that names an address of this family.
pub struct Call<const FAMILY: bool> {
    raw: *mut bpf_sock_addr,
}

/// An address and a port in network byte order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub addr: Addr,
    pub port_be: u16,
}

impl<const FAMILY: bool> Call<FAMILY> {
    #[inline(always)]
    pub fn new(ctx: &SockAddrContext) -> Self {
        Self { raw: ctx.sock_addr }
    }

    /// The context itself, for helpers.
    #[inline(always)]
    pub fn context(&self) -> *mut c_void {
        self.raw.cast()
    }

    /// The socket.
    #[inline(always)]
    pub fn socket(&self) -> *mut c_void {
        // SAFETY: the kernel gives a valid context.
        unsafe { (&raw const (*self.raw).__bindgen_anon_1.sk).read_volatile() }.cast()
    }

    /// IP protocol.
    #[inline(always)]
    pub fn protocol(&self) -> u32 {
        self.word(offset_of!(bpf_sock_addr, protocol))
    }

    /// What the call names.
    #[inline(always)]
    pub fn place(&self) -> Place {
        let port_be = self.word(offset_of!(bpf_sock_addr, user_port)) as u16;
        let addr = if FAMILY == V4 {
            Addr::v4(self.word(offset_of!(bpf_sock_addr, user_ip4)).to_ne_bytes())
        } else {
            let at = offset_of!(bpf_sock_addr, user_ip6);
            let words: [u32; 4] = core::array::from_fn(|index| self.word(at + 4 * index));
            let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
            Addr::from_words([pair(words[0], words[1]), pair(words[2], words[3])])
        };
        Place { addr, port_be }
    }

    /// Has the call name this instead. An IPv4 place of a call that names an IPv6 address is written
    /// in its mapped form; the other way round there is none, which configurations see to.
    #[inline(always)]
    pub fn rename(&self, place: &Place) {
        if FAMILY == V4 {
            let addr = u32::from_ne_bytes(place.addr.low32());
            self.put(offset_of!(bpf_sock_addr, user_ip4), addr);
        } else {
            let at = offset_of!(bpf_sock_addr, user_ip6);
            let [first, second] = place.addr.words();
            self.put(at, first as u32);
            self.put(at + 4, (first >> 32) as u32);
            self.put(at + 8, second as u32);
            self.put(at + 12, (second >> 32) as u32);
        }
        self.put(
            offset_of!(bpf_sock_addr, user_port),
            u32::from(place.port_be),
        );
    }

    /// A field of the context. Volatile, for the kernel takes loads of a field alone, and the compiler
    /// would join those of neighbours.
    #[inline(always)]
    fn word(&self, offset: usize) -> u32 {
        // SAFETY: the kernel gives a valid context, whose fields are aligned words.
        unsafe { self.raw.byte_add(offset).cast::<u32>().read_volatile() }
    }

    #[inline(always)]
    fn put(&self, offset: usize, word: u32) {
        // SAFETY: as in `word`.
        unsafe { self.raw.byte_add(offset).cast::<u32>().write_volatile(word) }
    }
}
