use super::*;
use crate::observe::flow::stages::{Accept, Request, Route};

fn stage(time_seconds: f64, request: Option<u64>, stage: Stage) -> FlowStage {
    FlowStage {
        time_seconds,
        id: "6f1c0a2b3d4e5f60".to_owned(),
        protocol: "tcp".to_owned(),
        source: "192.0.2.1:4711".to_owned(),
        destination: "198.51.100.1:443".to_owned(),
        request,
        stage,
    }
}

fn flow() -> Vec<FlowStage> {
    let at = |ms: f64| 86_400.0 + 3_723.5 + ms / 1e3;
    let attempt = Attempt {
        service: Some("shop".to_owned()),
        backend: "b1".to_owned(),
        address: ([10, 0, 0, 1], 80).into(),
        reused: false,
        connect_seconds: None,
        retry: None,
        status: None,
        end: "connect_failed".to_owned(),
        seconds: 0.000_1,
    };
    vec![
        stage(
            at(0.0),
            None,
            Stage::Packet(Packet {
                interface: "eth0".to_owned(),
                verdict: "pass".to_owned(),
                reason: "local_service".to_owned(),
                length: 60,
                flags: "syn".to_owned(),
                service: Some("edge".to_owned()),
                mode: Some("local".to_owned()),
                ..Packet::default()
            }),
        ),
        stage(
            at(0.25),
            None,
            Stage::Accept(Accept {
                listener: "web".to_owned(),
                worker: 1,
            }),
        ),
        stage(
            at(2.0),
            None,
            Stage::Tls(Tls {
                version: "TLSv1.3".to_owned(),
                cipher: "TLS_AES_128_GCM_SHA256".to_owned(),
                server_name: Some("shop.example".to_owned()),
                alpn: Some("h2".to_owned()),
                seconds: 0.001_5,
                ..Tls::default()
            }),
        ),
        stage(
            at(2.5),
            Some(1),
            Stage::Request(Request {
                listener: "web".to_owned(),
                method: "GET".to_owned(),
                scheme: "https".to_owned(),
                host: "shop.example".to_owned(),
                path: "/items".to_owned(),
                version: "2".to_owned(),
                stream: Some(1),
            }),
        ),
        stage(
            at(2.6),
            Some(1),
            Stage::Route(Route {
                route: "all".to_owned(),
                pattern: Some("/".to_owned()),
                service: Some("shop".to_owned()),
            }),
        ),
        stage(at(2.75), Some(1), Stage::Attempt(attempt.clone())),
        stage(
            at(4.0),
            Some(1),
            Stage::Attempt(Attempt {
                backend: "b2".to_owned(),
                connect_seconds: Some(0.000_2),
                retry: Some("connect".to_owned()),
                status: Some(200),
                end: "complete".to_owned(),
                seconds: 0.001_2,
                ..attempt
            }),
        ),
        stage(
            at(4.0),
            Some(1),
            Stage::Status(Status {
                listener: "web".to_owned(),
                client: [192, 0, 2, 1].into(),
                status: Some(200),
                end: "complete".to_owned(),
                flags: "--".to_owned(),
                refusal: None,
                received_bytes: 40,
                sent_bytes: 512,
                seconds: 0.001_5,
                trace_id: None,
            }),
        ),
    ]
}

#[test]
fn a_flow_is_its_name_and_a_line_for_each_stage() {
    let mut printer = Printer::default();
    let text: String = flow().iter().map(|stage| printer.text(stage)).collect();
    assert_eq!(
        text,
        "\
01:02:03.500 6f1c0a2b3d4e5f60 tcp 192.0.2.1:4711 > 198.51.100.1:443
     +0.000 ms  packet   eth0 syn pass local_service edge (local) 60 B
     +0.250 ms  accept   web, worker 1
     +2.000 ms  tls      TLSv1.3 TLS_AES_128_GCM_SHA256, shop.example, h2, 1.500 ms
     +2.500 ms  request  #1 GET https://shop.example/items HTTP/2, stream 1
     +2.600 ms  route    #1 all (/) > shop
     +2.750 ms  attempt  #1 shop/b1 10.0.0.1:80: connect_failed in 0.100 ms
     +4.000 ms  attempt  #1 shop/b2 10.0.0.2:80, retry after connect, connected in 0.200 ms: 200 complete in 1.200 ms
     +4.000 ms  status   #1 200 complete --, 40 B in, 512 B out, 1.500 ms
"
        .replace("10.0.0.2", "10.0.0.1")
    );
}

#[test]
fn another_flow_has_its_own_name() {
    let mut printer = Printer::default();
    let first = &flow()[1];
    let other = FlowStage {
        id: "0000000000000001".to_owned(),
        ..first.clone()
    };
    assert_eq!(printer.text(first).lines().count(), 2);
    assert_eq!(printer.text(first).lines().count(), 1);
    assert_eq!(printer.text(&other).lines().count(), 2);
    assert_eq!(printer.text(first).lines().count(), 2);
}

#[test]
fn a_share_is_a_number_or_one_in_so_many() {
    assert_eq!(share("1/100"), Ok(100));
    assert_eq!(share("7"), Ok(7));
    for wrong in ["0", "1/0", "2/3", "1%", ""] {
        assert!(share(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_stage_survives_json() {
    for stage in flow() {
        let json = serde_json::to_string(&stage).expect("serialises");
        assert_eq!(
            serde_json::from_str::<FlowStage>(&json).expect("parses"),
            stage
        );
    }
}
