//! Frames with random octets changed: nothing is aborted, each has one reason, and whatever is
//! sent on is as valid as what came in. Bounded, and repeatable from the seed that is printed.

use crate::common::{BOTH, Ends, hex};
use proxy_common::maps::DEFAULT_GUE_PORT;
use proxy_common::reason::Reason;
use proxy_common::service::Mode;
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::rig::{Action, Rig, Sizes, from_backend, from_client};
use proxy_tests::packet::service::Wanted;
use proxy_tests::packet::verify::verify;
use proxy_tests::packet::wire::{Extension, ethertype, protocol};

/// Frames per mode.
const FRAMES: usize = 6_000;

/// Environment variable with a seed to repeat.
const SEED: &str = "SLUICE_SEED";

fn seed() -> u64 {
    let seed = std::env::var(SEED).ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("{SEED}={seed}");
    seed
}

fn corpus(ends: &Ends) -> Vec<Vec<u8>> {
    let (vip, client) = (ends.vip_address(), ends.client_address());
    let quoted = Packet::tcp(ends.vip, ends.client).payload(&[3; 40]).bytes();
    let mut packets = vec![
        ends.tcp().syn().bytes(),
        ends.tcp().bytes(),
        ends.udp().bytes(),
        Packet::echo(&client, &vip).bytes(),
        Packet::too_big(&client, &vip, 1280, &quoted).bytes(),
        Packet::tcp(ends.same_port, ends.client).bytes(),
    ];
    packets.extend(ends.udp().payload(&[9; 100]).fragments(48, 5));
    if ends.vip.starts_with('[') {
        for kind in [
            protocol::HOP_BY_HOP,
            protocol::ROUTING,
            protocol::DESTINATION,
        ] {
            packets.push(ends.tcp().extension(Extension::generic(kind, 1)).bytes());
        }
    } else {
        packets.push(ends.tcp().options(&[1; 16]).bytes());
    }
    let mut frames: Vec<Vec<u8>> = packets
        .iter()
        .map(|packet| from_client().frame(packet))
        .collect();
    frames.extend(
        packets
            .iter()
            .map(|p| from_client().vlan(ethertype::VLAN, 9).frame(p)),
    );
    frames.extend(packets.iter().map(|p| from_backend(2).frame(p)));
    frames
}

/// Flips, overwrites, cuts or lengthens.
fn mutate(frame: &mut Vec<u8>, random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..=4) {
        let at = random.usize(12..frame.len());
        match random.u8(..6) {
            0 => frame[at] ^= 1 << random.u8(..8),
            1 => frame[at] = random.u8(..),
            2 => frame[at] = *random.choice(&[0, 1, 4, 6, 0x7f, 0x80, 0xff]).unwrap_or(&0),
            3 => frame.truncate(at.max(14)),
            4 => {
                let more = random.usize(1..64);
                frame.extend(std::iter::repeat_with(|| random.u8(..)).take(more));
            }
            _ => frame[at] = frame[at].wrapping_add(1),
        }
    }
}

fn check(mode: Mode, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let sizes = Sizes {
        snat_addrs: 2,
        sets_per_cpu: 1024,
        ..Sizes::default()
    };
    let mut rig = Rig::with(sizes).unwrap();
    let mut frames = Vec::new();
    for ends in BOTH {
        for udp in [false, true] {
            let wanted = if udp {
                Wanted::udp(ends.vip, mode)
            } else {
                Wanted::tcp(ends.vip, mode)
            };
            let wanted = if mode == Mode::Local {
                wanted
            } else {
                wanted.backend(ends.same_port)
            };
            let wanted = if mode == Mode::FullNat && !udp {
                wanted.source(ends.source)
            } else {
                wanted
            };
            rig.serve(&wanted).unwrap();
        }
        frames.extend(corpus(&ends));
    }
    for _ in 0..FRAMES {
        let original = &frames[random.usize(..frames.len())];
        let mut frame = original.clone();
        mutate(&mut frame, &mut random);
        let was_valid = verify(&frame, DEFAULT_GUE_PORT).is_ok();
        let outcome = rig.run(&frame).unwrap();
        assert_ne!(
            outcome.action,
            Action::Aborted,
            "seed {seed}\n{}",
            hex(&frame)
        );
        let reason = outcome.reason();
        assert_ne!(
            reason,
            Reason::DropInternal,
            "seed {seed}, {mode:?}\n{}",
            hex(&frame)
        );
        let sent = matches!(outcome.action, Action::Tx | Action::Redirect);
        if was_valid
            && sent
            && let Err(fault) = verify(&outcome.frame, DEFAULT_GUE_PORT)
        {
            panic!(
                "seed {seed}, {mode:?}, {reason:?}: {fault}\nin\n{}\nout\n{}",
                hex(&frame),
                hex(&outcome.frame)
            );
        }
    }
}

#[test]
fn random_changes_never_abort_nat() {
    check(Mode::Nat, seed());
}

#[test]
fn random_changes_never_abort_full_nat() {
    check(Mode::FullNat, seed());
}

#[test]
fn random_changes_never_abort_dsr_l2() {
    check(Mode::DsrL2, seed());
}

#[test]
fn random_changes_never_abort_dsr_ipip() {
    check(Mode::DsrIpip, seed());
}

#[test]
fn random_changes_never_abort_dsr_gue() {
    check(Mode::DsrGue, seed());
}

#[test]
fn random_changes_never_abort_local() {
    check(Mode::Local, seed());
}

#[test]
fn random_changes_never_abort_decapsulation() {
    use proxy_common::maps::{DECAP_SETTINGS, DecapSettings, program};
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut rig = Rig::new().unwrap();
    rig.program = program::DECAP;
    let settings = DecapSettings {
        gue_port: DEFAULT_GUE_PORT,
        ..DecapSettings::default()
    };
    rig.set(DECAP_SETTINGS, 0, settings).unwrap();
    let frames = crate::decap::tunnels();
    for _ in 0..FRAMES {
        let mut frame = frames[random.usize(..frames.len())].clone();
        mutate(&mut frame, &mut random);
        let outcome = rig.run(&frame).unwrap();
        assert_ne!(
            outcome.action,
            Action::Aborted,
            "seed {seed}\n{}",
            hex(&frame)
        );
        assert_ne!(
            outcome.reason(),
            Reason::DropInternal,
            "seed {seed}\n{}",
            hex(&frame)
        );
    }
}
