//! Where it is written down what a connected socket was given.
//!
//! Memory for a socket's own storage is the dearest part of a connect() that is balanced. So a TCP
//! socket has a row of a table, which its cookie tells: cookies count up, so that sockets of about the
//! same time have different rows. Who finds the row taken keeps it in its own storage, as other sockets
//! do. A row is another's when its socket is released, and not before.

use super::TCP;
use super::maps::{PEERS, ROWS, store, stored};
use crate::atomic;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use core::ffi::c_void;
use proxy_common::connect::{Peer, Row, row_of};

/// A connected socket.
pub struct Socket {
    context: *mut c_void,
    sk: *mut c_void,
    /// Its cookie; 0 if it is none of TCP, and so has no row.
    cookie: u64,
}

impl Socket {
    /// The socket that a program is about; `sk` is one that the verifier knows.
    #[inline(always)]
    pub fn new(context: *mut c_void, sk: *mut c_void, protocol: u32) -> Self {
        let cookie = match protocol {
            // SAFETY: the context is the kernel's.
            TCP => unsafe { bpf_get_socket_cookie(context) },
            _ => 0,
        };
        Self {
            context,
            sk,
            cookie,
        }
    }

    /// Its cookie.
    #[inline(always)]
    pub fn cookie(&self) -> u64 {
        match self.cookie {
            // SAFETY: the context is the kernel's.
            0 => unsafe { bpf_get_socket_cookie(self.context) },
            cookie => cookie,
        }
    }

    /// What it was given, if it was: empty if that holds no more. It is there while the program runs.
    #[inline(always)]
    pub fn given(&self) -> Option<*mut Peer> {
        if let Some(row) = self.row() {
            // SAFETY: aligned numbers of the map's value; nobody else writes this cookie.
            let (cookie, is_shared) = unsafe {
                (
                    (&raw const (*row).cookie).read_volatile(),
                    (&raw const (*row).is_shared).read_volatile(),
                )
            };
            if cookie == self.cookie {
                // SAFETY: the row is the map's.
                return Some(unsafe { &raw mut (*row).peer });
            }
            if is_shared == 0 {
                return None;
            }
        }
        // SAFETY: the verifier knows the socket.
        unsafe { stored(&PEERS, self.sk) }
    }

    /// As [`Self::given`], or room for it.
    #[inline(always)]
    pub fn room(&self) -> Option<*mut Peer> {
        if let Some(known) = self.given() {
            return Some(known);
        }
        if let Some(row) = self.row() {
            // SAFETY: an aligned number of the map's value.
            if unsafe { atomic::exchange(&raw mut (*row).cookie, 0, self.cookie) } {
                // SAFETY: the row is the map's, and this socket's from now on.
                return Some(unsafe { &raw mut (*row).peer });
            }
            // SAFETY: as above; nobody writes anything else.
            unsafe { (&raw mut (*row).is_shared).write_volatile(1) };
        }
        // SAFETY: the verifier knows the socket.
        unsafe { store(&PEERS, self.sk) }
    }

    /// Gives its row back, if it has one; what it was given was forgotten.
    #[inline(always)]
    pub fn leave(&self) {
        if let Some(row) = self.row() {
            // SAFETY: an aligned number of the map's value.
            unsafe { atomic::exchange(&raw mut (*row).cookie, self.cookie, 0) };
        }
    }

    /// The row that it has, unless another socket does.
    #[inline(always)]
    fn row(&self) -> Option<*mut Row> {
        match self.cookie {
            0 => None,
            cookie => ROWS.get_ptr_mut(row_of(cookie)),
        }
    }
}
