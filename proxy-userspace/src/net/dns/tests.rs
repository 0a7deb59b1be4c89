//! The policy step by step, the watch with a fake, and the resolver against a real responder.

use super::*;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::UdpSocket;

const S: Duration = Duration::from_secs(1);

fn at(address: &str) -> Resolved {
    Resolved {
        rank: 0,
        address: address.parse().expect("address"),
        weight: 1,
    }
}

fn answer(addresses: &[&str], ttl: u64) -> Result<Answer, Failure> {
    Ok(Answer {
        found: addresses.iter().map(|address| at(address)).collect(),
        ttl: Duration::from_secs(ttl),
        is_complete: true,
    })
}

fn part(addresses: &[&str]) -> Result<Answer, Failure> {
    answer(addresses, 60).map(|answer| Answer {
        is_complete: false,
        ..answer
    })
}

fn silence() -> Result<Answer, Failure> {
    Err(Failure::Unanswered("silence".into()))
}

fn denial(ttl: Option<u64>) -> Result<Answer, Failure> {
    let ttl = ttl.map(Duration::from_secs);
    Err(Failure::NoSuchName { ttl })
}

fn known() -> Known {
    Known::new(Bounds::default())
}

#[test]
fn an_answer_holds_as_long_as_it_says_within_bounds() {
    for (ttl, wait) in [(0, 1), (1, 1), (30, 30), (86_400, 300)] {
        let step = known().learn(&answer(&["10.0.0.1:80"], ttl), 0.0);
        assert_eq!(step.again_in, S * wait);
        assert_eq!(step.change, Some(vec![at("10.0.0.1:80")]));
    }
    let late = known().learn(&answer(&["10.0.0.1:80"], 30), 0.999);
    assert!(late.again_in > S * 32 && late.again_in <= S * 33);
}

#[test]
fn only_changes_are_told_whatever_the_order() {
    let mut known = known();
    assert!(
        known
            .learn(&answer(&["10.0.0.1:80", "10.0.0.2:80"], 9), 0.0)
            .change
            .is_some()
    );
    let again = answer(&["10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80"], 9);
    assert_eq!(known.learn(&again, 0.0).change, None);
    let less = known.learn(&answer(&["10.0.0.2:80"], 9), 0.0);
    assert_eq!(less.change, Some(vec![at("10.0.0.2:80")]));
}

#[test]
fn without_answers_what_was_known_stays_and_questions_grow_rare() {
    let mut known = known();
    known.learn(&answer(&["10.0.0.1:80"], 9), 0.0);
    for wait in [1, 2, 4, 8, 16, 30, 30, 30] {
        let step = known.learn(&silence(), 0.0);
        assert_eq!((step.change, step.again_in), (None, S * wait));
    }
    let step = known.learn(&answer(&["10.0.0.1:80"], 9), 0.0);
    assert_eq!((step.change, step.again_in), (None, S * 9));
    assert_eq!(known.learn(&silence(), 0.0).again_in, S);
}

#[test]
fn a_name_is_gone_when_that_was_said_three_times_in_a_row() {
    let mut known = known();
    known.learn(&answer(&["10.0.0.1:80"], 9), 0.0);
    assert_eq!(known.learn(&denial(Some(900)), 0.0).change, None);
    assert_eq!(known.learn(&denial(Some(900)), 0.0).change, None);
    known.learn(&answer(&["10.0.0.1:80"], 9), 0.0);
    assert_eq!(known.learn(&denial(Some(900)), 0.0).change, None);
    assert_eq!(known.learn(&denial(Some(900)), 0.0).change, None);
    let gone = known.learn(&denial(Some(900)), 0.0);
    assert_eq!((gone.change, gone.again_in), (Some(vec![]), S * 30));
    let still = known.learn(&denial(Some(5)), 0.0);
    assert_eq!((still.change, still.again_in), (None, S * 5));
    assert_eq!(known.learn(&denial(None), 0.0).again_in, S * 30);
    let back = known.learn(&answer(&["10.0.0.1:80"], 9), 0.0);
    assert_eq!(back.change, Some(vec![at("10.0.0.1:80")]));
}

#[test]
fn half_an_answer_takes_nobody_away() {
    let mut known = known();
    known.learn(&answer(&["10.0.0.1:80", "[::1]:80"], 9), 0.0);
    let step = known.learn(&part(&["10.0.0.2:80"]), 0.0);
    let all = vec![at("10.0.0.1:80"), at("10.0.0.2:80"), at("[::1]:80")];
    assert_eq!((step.change, step.again_in), (Some(all), S));
}

#[test]
fn an_endless_answer_is_cut() {
    let found: Vec<String> = (0..70_000u32)
        .map(|i| format!("10.{}.{}.{}:80", i >> 16, (i >> 8) & 255, i & 255))
        .collect();
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    let step = known().learn(&answer(&found, 9), 0.0);
    assert_eq!(
        step.change.map(|members| members.len()),
        Some(known::MAX_FOUND)
    );
}

/// Gives one answer after the other, then none.
struct Fake(RefCell<VecDeque<Result<Answer, Failure>>>);

impl Resolve for Fake {
    async fn resolve(&self, _: &DnsQuestion) -> Result<Answer, Failure> {
        let next = self.0.borrow_mut().pop_front();
        match next {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

fn target(asked: DnsQuestion) -> Target {
    Target {
        service: "shop".into(),
        question: 2,
        asked,
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_changes_and_failures_and_ends_with_its_receiver() {
    let answers = [
        answer(&["10.0.0.1:80"], 30),
        answer(&["10.0.0.1:80"], 30),
        silence(),
        answer(&["10.0.0.2:80"], 30),
    ];
    let fake = Fake(RefCell::new(answers.into()));
    let (sender, mut updates) = mpsc::channel(1);
    let asked = vec![target(DnsQuestion::Host("db".into(), 80))];
    let began = tokio::time::Instant::now();
    let watch = watch(&fake, asked, Bounds::default(), sender);
    let read = async {
        let mut next = async || {
            let update = updates.recv().await.expect("an update");
            assert_eq!((update.service.as_str(), update.question), ("shop", 2));
            update.news
        };
        let first = vec![at("10.0.0.1:80")];
        assert!(matches!(next().await, News::Members(members) if members == first));
        assert!(matches!(next().await, News::Failed(Failure::Unanswered(_))));
        assert!(
            began.elapsed() >= 60 * S,
            "asked before the answers had expired"
        );
        let second = vec![at("10.0.0.2:80")];
        assert!(matches!(next().await, News::Members(members) if members == second));
        // Nobody answers any more: the watch gives up on its own.
        assert!(matches!(next().await, News::Failed(Failure::Unanswered(_))));
        drop(updates);
    };
    tokio::join!(watch, read);
}

/// A name server on the loopback interface. After `broken` is set it answers SERVFAIL to AAAA.
async fn serve(socket: UdpSocket, broken: Arc<AtomicBool>) {
    let mut buffer = [0; 1500];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.expect("a question");
        let question = Message::from_vec(&buffer[..length]).expect("a message");
        let query = question.queries[0].clone();
        let mut message = Message::response(question.metadata.id, OpCode::Query);
        let name = query.name().to_ascii();
        let records: &[(u32, RData)] = &match (name.as_str(), query.query_type()) {
            ("db.test.", RecordType::A) => {
                vec![
                    (40, RData::A(A::new(10, 0, 0, 1))),
                    (40, RData::A(A::new(10, 0, 0, 2))),
                ]
            }
            ("db.test.", RecordType::AAAA) => {
                let loopback = "fd00::1".parse().expect("address");
                vec![(20, RData::AAAA(AAAA(loopback)))]
            }
            ("v4.test.", RecordType::A) => vec![(40, RData::A(A::new(10, 0, 0, 3)))],
            ("_shop._tcp.test.", RecordType::SRV) => {
                let record = |priority, weight, port, host: &str| {
                    let host = Name::from_ascii(host).expect("name");
                    (60, RData::SRV(SRV::new(priority, weight, port, host)))
                };
                vec![
                    record(20, 0, 8002, "v4.test."),
                    record(10, 7, 8001, "v4.test."),
                    record(20, 5, 8003, "gone.test."),
                ]
            }
            ("_none._tcp.test.", RecordType::SRV) => {
                vec![(60, RData::SRV(SRV::new(0, 0, 0, Name::root())))]
            }
            ("v4.test.", _) => vec![],
            _ => {
                message.metadata.response_code = ResponseCode::NXDomain;
                vec![]
            }
        };
        if query.query_type() == RecordType::AAAA && broken.load(Ordering::SeqCst) {
            message.metadata.response_code = ResponseCode::ServFail;
        } else {
            message.add_answers(
                records.iter().map(|(ttl, data)| {
                    Record::from_rdata(query.name().clone(), *ttl, data.clone())
                }),
            );
        }
        message.metadata.recursion_available = true;
        message.add_query(query);
        let octets = message.to_vec().expect("octets");
        socket.send_to(&octets, from).await.expect("sent");
    }
}

async fn resolver(broken: &Arc<AtomicBool>) -> (SystemResolver, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let address = socket.local_addr().expect("its address");
    tokio::spawn(serve(socket, Arc::clone(broken)));
    let mut connection = ConnectionConfig::udp();
    connection.port = address.port();
    let server = NameServerConfig::new(address.ip(), true, vec![connection]);
    let config = ResolverConfig::from_parts(None, vec![], vec![server]);
    let mut options = ResolverOpts::default();
    options.attempts = 1;
    let resolver = SystemResolver::with_config(config, options).expect("a resolver");
    (resolver, address)
}

#[tokio::test]
async fn a_real_server_is_asked_for_hosts_and_services() {
    let broken = Arc::new(AtomicBool::new(false));
    let (resolver, _) = resolver(&broken).await;
    let host = |name: &str| DnsQuestion::Host(name.into(), 80);

    let mut both = resolver
        .resolve(&host("db.test."))
        .await
        .expect("addresses");
    both.found.sort_unstable();
    let all = [at("10.0.0.1:80"), at("10.0.0.2:80"), at("[fd00::1]:80")];
    assert_eq!(both.found, all);
    assert!(both.is_complete);
    assert!(both.ttl <= 20 * S && !both.ttl.is_zero(), "{:?}", both.ttl);

    let v4 = resolver
        .resolve(&host("v4.test."))
        .await
        .expect("addresses");
    assert_eq!((v4.found, v4.is_complete), (vec![at("10.0.0.3:80")], true));

    let literal = resolver
        .resolve(&host("fd00::7"))
        .await
        .expect("an address");
    assert_eq!(literal.found, [at("[fd00::7]:80")]);

    let none = resolver.resolve(&host("none.test.")).await;
    assert!(matches!(none, Err(Failure::NoSuchName { .. })), "{none:?}");

    let service = DnsQuestion::Service("_shop._tcp.test.".into());
    let mut service = resolver.resolve(&service).await.expect("hosts");
    service.found.sort_unstable();
    let with = |rank, weight, address| Resolved {
        rank,
        weight,
        ..at(address)
    };
    let expected = [with(0, 7, "10.0.0.3:8001"), with(1, 1, "10.0.0.3:8002")];
    assert_eq!(service.found, expected);
    assert!(service.is_complete);
    assert!(service.ttl <= 40 * S, "the hosts' TTL is the shorter one");

    let none = DnsQuestion::Service("_none._tcp.test.".into());
    let none = resolver.resolve(&none).await;
    assert!(matches!(none, Err(Failure::NoSuchName { .. })), "{none:?}");

    broken.store(true, Ordering::SeqCst);
    let half = resolver
        .resolve(&host("db.test."))
        .await
        .expect("addresses");
    assert_eq!((half.found.len(), half.is_complete), (2, false));
    let nothing = resolver.resolve(&host("none.test.")).await;
    assert!(
        matches!(nothing, Err(Failure::Unanswered(_))),
        "{nothing:?}"
    );
}
