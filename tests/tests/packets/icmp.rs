//! ICMP to VIPs: echo is answered, errors about nothing are dropped. Errors about flows are in
//! the modules of the forwarding modes.

use crate::common::{BOTH, Ends, expect, refuse, rig};
use proxy_common::reason::Reason;
use proxy_common::service::Mode;
use proxy_tests::packet::build::{Body, Packet};
use proxy_tests::packet::netns::{GATEWAY, NORTH};
use proxy_tests::packet::rig::{Action, Rig, from_client};
use proxy_tests::packet::service::Wanted;
use proxy_tests::packet::wire::{Extension, Link, ethertype, protocol};

fn serve(rig: &mut Rig, ends: &Ends, mode: Mode) {
    let wanted = Wanted::tcp(ends.vip, mode);
    let wanted = if mode == Mode::Local {
        wanted
    } else {
        wanted.backend(ends.same_port)
    };
    rig.serve(&wanted).unwrap();
}

/// What a host answers to an echo request.
fn reply(request: &Packet) -> Packet {
    let mut reply = request.clone();
    let (src, dst) = (request.ip.src(), request.ip.dst());
    reply = reply.from(&with_port(dst)).to(&with_port(src)).ttl(64);
    if let Body::Icmp(icmp) = &mut reply.body {
        icmp.kind = if src.is_ipv4() { 0 } else { 129 };
    }
    reply
}

fn with_port(address: std::net::IpAddr) -> String {
    std::net::SocketAddr::new(address, 0).to_string()
}

#[test]
fn echo_to_a_vip_is_answered() {
    for ends in BOTH {
        for mode in Mode::ALL {
            let mut rig = rig();
            serve(&mut rig, &ends, mode);
            for ttl in [1, 63, 64, 65, 255] {
                let request = Packet::echo(&ends.client_address(), &ends.vip_address()).ttl(ttl);
                let expected = reply(&request).frame(&Link::new(GATEWAY, NORTH));
                let frame = request.frame(&from_client());
                expect(&mut rig, &frame, Action::Tx, Reason::EchoReply, &expected);
            }
        }
    }
}

#[test]
fn echo_is_answered_through_tags_options_and_extensions() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, Mode::DsrIpip);
        let plain = Packet::echo(&ends.client_address(), &ends.vip_address());
        let decorated = if ends.vip.starts_with('[') {
            plain.extension(Extension::generic(protocol::DESTINATION, 1))
        } else {
            plain.options(&[1; 12])
        };
        let link = from_client()
            .vlan(ethertype::SERVICE_VLAN, 5)
            .vlan(ethertype::VLAN, 9);
        let back = Link {
            dst: link.src,
            src: link.dst,
            vlans: link.vlans.clone(),
        };
        let expected = reply(&decorated).frame(&back);
        expect(
            &mut rig,
            &decorated.frame(&link),
            Action::Tx,
            Reason::EchoReply,
            &expected,
        );
    }
}

#[test]
fn echo_checksums_are_right_for_every_carry() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, Mode::DsrIpip);
        for word in (0..=0xffffu16).step_by(251) {
            let request = Packet::echo(&ends.client_address(), &ends.vip_address())
                .payload(&word.to_be_bytes());
            let expected = reply(&request).frame(&Link::new(GATEWAY, NORTH));
            let frame = request.frame(&from_client());
            expect(&mut rig, &frame, Action::Tx, Reason::EchoReply, &expected);
        }
    }
}

#[test]
fn echo_to_others_is_left_alone() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, Mode::Nat);
        let other = crate::common::address_of(ends.north);
        let request = Packet::echo(&ends.client_address(), &other);
        refuse(
            &mut rig,
            &request.frame(&from_client()),
            Reason::PassNotService,
        );
    }
}

#[test]
fn other_messages_to_a_vip_are_left_to_the_stack() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, Mode::DsrL2);
        // Echo reply, timestamp; neighbour solicitation must reach the stack or nobody finds us.
        let kinds: &[u8] = if ends.vip.starts_with('[') {
            &[129, 135, 136]
        } else {
            &[0, 13]
        };
        for &kind in kinds {
            let message =
                Packet::icmp(&ends.client_address(), &ends.vip_address(), kind, 0, [0; 4])
                    .payload(&[0; 16]);
            refuse(
                &mut rig,
                &message.frame(&from_client()),
                Reason::PassProtocol,
            );
        }
    }
}

#[test]
fn errors_that_quote_too_little_are_dropped() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, Mode::DsrL2);
        let sent = Packet::tcp(ends.vip, ends.client).bytes();
        let headers = sent.len() - 20;
        for length in 0..headers + 8 {
            let error = Packet::too_big(
                &ends.client_address(),
                &ends.vip_address(),
                1280,
                &sent[..length],
            );
            refuse(
                &mut rig,
                &error.frame(&from_client()),
                Reason::DropTruncatedQuote,
            );
        }
    }
}

#[test]
fn errors_that_quote_another_protocol_are_left_to_the_stack() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, Mode::DsrL2);
        let (vip, client) = (ends.vip_address(), ends.client_address());
        let quoted = Packet::other(&vip, &client, protocol::SCTP).bytes();
        let error = Packet::too_big(&client, &vip, 1280, &quoted);
        refuse(&mut rig, &error.frame(&from_client()), Reason::PassProtocol);
    }
}

/// The stack knows what to do with an error about its own traffic.
#[test]
fn errors_that_quote_no_flow_of_a_service_are_left_to_the_stack() {
    for ends in BOTH {
        let mut rig = rig();
        serve(&mut rig, &ends, Mode::DsrL2);
        let strange = ends.vip.replace(":80", ":81");
        let quoted = Packet::tcp(&strange, ends.client).bytes();
        let error = Packet::too_big(&ends.client_address(), &ends.vip_address(), 1280, &quoted);
        refuse(
            &mut rig,
            &error.frame(&from_client()),
            Reason::PassNotService,
        );
    }
}

#[test]
fn v4_icmp_over_v6_is_no_icmp() {
    let mut rig = rig();
    let [v4, v6] = BOTH;
    serve(&mut rig, &v4, Mode::DsrL2);
    serve(&mut rig, &v6, Mode::DsrL2);
    let odd = |ends: &Ends, number| {
        let mut packet = Packet::other(&ends.client_address(), &ends.vip_address(), number);
        packet.payload = vec![8, 0, 0xf7, 0xff, 0, 0, 0, 0];
        packet.frame(&from_client())
    };
    refuse(&mut rig, &odd(&v4, protocol::ICMPV6), Reason::PassProtocol);
    refuse(&mut rig, &odd(&v6, protocol::ICMP), Reason::PassProtocol);
}
