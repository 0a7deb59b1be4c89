//! Many flows at once: a flood of SYNs washes out nothing that is established, and a million
//! flows that arrive as fast as the machine can bring them are all remembered.

use crate::common::{BOTH, V4, rig};
use proxy_common::flow::{counted, flow_flags};
use proxy_common::service::Mode;
use proxy_tests::bench::driver::{Driver, Vary};
use proxy_tests::packet::build::Packet;
use proxy_tests::packet::rig::{Action, Rig, Sizes, from_client};
use proxy_tests::packet::service::Wanted;
use std::time::Instant;

/// The flow with this number: client address and port.
fn client(number: u32) -> [u8; 6] {
    let [a, b, c, d] = (0x0b00_0000 + (number >> 14)).to_be_bytes();
    let [high, low] = (1024 + (number & 0x3fff) as u16).to_be_bytes();
    [a, b, c, d, high, low]
}

/// A frame of a flow: a template with another client. The TCP checksum is left as it was; nobody
/// on this way verifies it.
fn frame(template: &[u8], number: u32) -> Vec<u8> {
    let mut frame = template.to_vec();
    let client = client(number);
    frame[26..30].copy_from_slice(&client[..4]);
    frame[34..36].copy_from_slice(&client[4..]);
    frame
}

/// A service with one backend: how many flows it was given tells how many were not found.
fn serve(rig: &mut Rig) {
    rig.serve(&Wanted::tcp(V4.vip, Mode::DsrL2).backend(V4.same_port))
        .unwrap();
}

/// A table of this size with as many flows, each of a SYN and further packets; and the frames that
/// they were made from.
fn loaded(sets_per_cpu: u32, flows: u32, further: usize) -> (Rig, Vec<u8>, Vec<u8>) {
    let mut rig = Rig::with(Sizes {
        sets_per_cpu,
        ..Sizes::default()
    })
    .unwrap();
    serve(&mut rig);
    let (syn, ack) = (
        V4.tcp().syn().frame(&from_client()),
        V4.tcp().frame(&from_client()),
    );
    for template in std::iter::once(&syn).chain(vec![&ack; further]) {
        rig.flood((0..flows).map(|n| frame(template, n))).unwrap();
    }
    (rig, syn, ack)
}

fn opened(rig: &Rig) -> u64 {
    let stats = rig.backend_stats(1).unwrap();
    stats.new_flows + stats.entered
}

#[test]
fn a_syn_flood_does_not_wash_out_established_flows() {
    let sets_per_cpu = 512;
    let capacity = sets_per_cpu * 16;
    // As many established flows as the table is planned for.
    let established = sets_per_cpu * 8;
    let (mut rig, syn, ack) = loaded(sets_per_cpu, established, 2);
    // At this load a few sets are over-full; what is measured is the fate of confirmed flows.
    let confirmed: Vec<Vec<u8>> = rig
        .flows()
        .unwrap()
        .iter()
        .filter(|(_, flow)| flow.flags & flow_flags::CONFIRMED != 0)
        .map(|(_, flow)| {
            let mut frame = ack.clone();
            frame[26..30].copy_from_slice(&flow.key.src.low32());
            frame[34..36].copy_from_slice(&flow.key.src_port_be.to_ne_bytes());
            frame
        })
        .collect();
    assert!(
        confirmed.len() * 100 > established as usize * 95,
        "{} confirmed",
        confirmed.len()
    );
    let before = opened(&rig);
    rig.flood((0..capacity * 12).map(|n| frame(&syn, 1_000_000 + n)))
        .unwrap();
    let flood = opened(&rig) - before;
    assert_eq!(
        flood,
        u64::from(capacity * 12),
        "the flood is forwarded, too"
    );
    let count = confirmed.len() as u64;
    rig.flood(confirmed).unwrap();
    let lost = opened(&rig) - before - flood;
    assert!(
        lost * 1000 <= count,
        "{lost} of {count} established flows were forgotten"
    );
}

/// The same with the table loaded so lightly that every flow has room: then not one may be lost.
#[test]
fn not_one_established_flow_with_room_is_lost_to_a_flood() {
    let sets_per_cpu = 512;
    let established = sets_per_cpu * 3;
    let (mut rig, syn, ack) = loaded(sets_per_cpu, established, 1);
    let before = opened(&rig);
    let flood = sets_per_cpu * 16 * 10;
    rig.flood((0..flood).map(|n| frame(&syn, 1_000_000 + n)))
        .unwrap();
    rig.flood((0..established).map(|n| frame(&ack, n))).unwrap();
    assert_eq!(opened(&rig) - before - u64::from(flood), 0);
}

/// A flood that sends every SYN twice confirms its flows; they still may not replace others.
#[test]
fn a_flood_of_doubled_syns_does_not_wash_out_established_flows() {
    let sets_per_cpu = 256;
    let established = sets_per_cpu * 3;
    let (mut rig, syn, ack) = loaded(sets_per_cpu, established, 1);
    let before = opened(&rig);
    let flood = sets_per_cpu * 16 * 4;
    rig.flood((0..flood * 2).map(|n| frame(&syn, 1_000_000 + n / 2)))
        .unwrap();
    let opened_by_flood = opened(&rig) - before;
    rig.flood((0..established).map(|n| frame(&ack, n))).unwrap();
    assert_eq!(opened(&rig) - before - opened_by_flood, 0);
}

/// The kernel repeats the program by itself, so that flows come as fast as it can take them and not as
/// fast as this process can ask for each: many times faster than what is promised, by the table's
/// own clock, which leaves room for a busy machine.
#[test]
fn a_million_flows_at_full_speed_are_remembered() {
    const FLOWS: u32 = 1 << 20;
    /// What other balancers cap, to save their tables.
    const PER_SECOND: f64 = 125_000.0;
    for ends in BOTH {
        // As the loader sizes a table for a million flows on each CPU.
        let sets_per_cpu = FLOWS.div_ceil(proxy_common::flow::PLANNED_FLOWS_PER_SET);
        let mut rig = Rig::with(Sizes {
            sets_per_cpu,
            ..Sizes::default()
        })
        .unwrap();
        rig.serve(&Wanted::tcp(ends.vip, Mode::DsrL2).backend(ends.same_port))
            .unwrap();
        let mut driver = Driver::load(rig.ingress).unwrap();
        driver
            .aim(&rig.program().unwrap().fd().unwrap().try_clone().unwrap())
            .unwrap();
        let mut pass = |packet: Packet| {
            // As long as the driver's template at least.
            let frame = packet.payload(&[0; 42]).frame(&from_client());
            let every = Vary {
                flows: FLOWS,
                step: 0x9e37_79b1,
            };
            driver.send(&frame, Some(every), 0).unwrap();
            let start = Instant::now();
            let (_, action) = driver.run(FLOWS).unwrap();
            assert!(
                matches!(action, Action::Tx | Action::Redirect),
                "{action:?}"
            );
            f64::from(FLOWS) / start.elapsed().as_secs_f64()
        };
        let rate = pass(ends.tcp().syn());
        println!("{rate:.0} new flows per second to {}", ends.vip);
        assert!(rate > PER_SECOND, "only {rate:.0} flows per second came");
        let before = opened(&rig);
        assert!(before >= u64::from(FLOWS), "{before} of {FLOWS} were new");
        pass(ends.tcp());
        let missed = opened(&rig) - before;
        assert!(
            missed * 100 <= u64::from(FLOWS),
            "{missed} of {FLOWS} packets to {} found no flow",
            ends.vip
        );
    }
}

#[test]
fn live_counts_survive_a_flood() {
    let mut rig = rig();
    serve(&mut rig);
    let syn = V4.tcp().syn().frame(&from_client());
    rig.flood((0..20_000).map(|n| frame(&syn, n))).unwrap();
    assert_eq!(rig.live(1).unwrap(), 0, "nobody has answered yet");
    let ack = V4.tcp().frame(&from_client());
    // Each twice: whether or not its SYN is remembered, the second one confirms the flow.
    rig.flood((20_000..24_000).map(|n| frame(&ack, n / 2)))
        .unwrap();
    rig.flood((20_000..40_000).map(|n| frame(&syn, n))).unwrap();
    let flows = rig.flows().unwrap();
    let counted = flows
        .iter()
        .filter(|(_, flow)| flow.counted == counted::YES);
    let counted = counted.count() as i64;
    assert!(counted > 0);
    assert_eq!(rig.live(1).unwrap(), counted, "no other is counted");
    let confirmed = flows
        .iter()
        .filter(|(_, flow)| flow.flags & flow_flags::CONFIRMED != 0);
    assert!(confirmed.clone().count() > 0);
    for (_, flow) in confirmed {
        assert_eq!(flow.counted, counted::YES);
    }
}
