//! The program that aims health probes, on one frame at a time.

use super::rig::Rig;
use anyhow::Result;
use aya::programs::{TestRun as _, TestRunOptions};
use proxy_common::reason::Reason;

/// What the program returned (`pkt_cls.h`, `tcx`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// Left to the next program (`TC_ACT_UNSPEC`).
    Next,
    /// Dropped.
    Drop,
    /// Sent out of an interface that the program named.
    Redirect,
    /// Anything else: never right.
    Other(u32),
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steered {
    /// The verdict.
    pub egress: Egress,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// The socket's mark afterwards.
    pub mark: u32,
    /// Every reason that was counted.
    pub reasons: Vec<Reason>,
}

/// Offset of `mark` in `struct __sk_buff`.
const MARK: usize = 8;
/// Offset of `ifindex`.
const IFINDEX: usize = 40;
/// Octets of the structure up to its last field (`hwtstamp`).
const SK_BUFF: usize = 192;

impl Rig {
    /// Runs a frame that leaves by the interface `ifindex` with this mark.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the run.
    pub fn run_probe(&mut self, mark: u32, ifindex: u32, frame: &[u8]) -> Result<Steered> {
        let mut context = [0u8; SK_BUFF];
        context[MARK..MARK + 4].copy_from_slice(&mark.to_ne_bytes());
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
        let mut after = [0u8; SK_BUFF];
        let mut out = vec![0; frame.len() + 256];
        let result = self.probe_program()?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ctx_out: Some(&mut after),
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        let mut mark = [0; 4];
        mark.copy_from_slice(&after[MARK..MARK + 4]);
        Ok(Steered {
            egress: match result.return_value {
                u32::MAX => Egress::Next,
                2 => Egress::Drop,
                7 => Egress::Redirect,
                other => Egress::Other(other),
            },
            frame: out,
            mark: u32::from_ne_bytes(mark),
            reasons: self.counted()?,
        })
    }
}
