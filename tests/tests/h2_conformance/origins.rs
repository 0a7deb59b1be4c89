//! Origins that speak HTTP/2 badly, or well and strangely, frame by frame: what the clients of a
//! proxy in front of them get, over HTTP/1 and over HTTP/2. Nobody may take a bad answer for a whole
//! one, and whatever an origin does, the next request to it is served when it behaves again.

#[path = "origins/connections.rs"]
mod connections;

#[path = "origins/content.rs"]
mod content;

#[path = "origins/heads.rs"]
mod heads;

#[path = "origins/streams.rs"]
mod streams;

use crate::case::{Answered, Closed, connect, request};
use crate::support::Sluice;
use proxy_tests::http2::hpack::Block;
use proxy_tests::http2::{Connection, Frame, Outcome, Role, error, setting};
use proxy_tests::{family, wait};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long it may take until an origin that behaves again is used again.
const RECOVERY: Duration = Duration::from_secs(20);

/// What an origin does.
struct Case {
    about: &'static str,
    /// Does it, once a request has come on a stream; with [`Self::raw`], when the connection has
    /// just been opened, and the stream is 0.
    act: fn(&mut Connection, u32),
    /// What a client may get; [`Closed`] stands for an answer that is cut off.
    allowed: &'static [Outcome],
    raw: bool,
    /// Octets of content in the request.
    content: usize,
}

const fn case(
    about: &'static str,
    act: fn(&mut Connection, u32),
    allowed: &'static [Outcome],
) -> Case {
    Case {
        about,
        act,
        allowed,
        raw: false,
        content: 0,
    }
}

impl Case {
    const fn raw(mut self) -> Self {
        self.raw = true;
        self
    }

    const fn with_content(mut self, octets: usize) -> Self {
        self.content = octets;
        self
    }
}

/// The answer is no answer.
const BAD: &[Outcome] = &[Answered(502)];

/// None came in time.
const LATE: &[Outcome] = &[Answered(504)];

/// It began well.
const CUT: &[Outcome] = &[Closed];

/// It is whole.
const WHOLE: &[Outcome] = &[Answered(200)];

/// Whether it is an answer is seen at its end, which may come before it is passed on.
const BAD_OR_CUT: &[Outcome] = &[Answered(502), Closed];

/// It is borne for some time.
const BORNE: &[Outcome] = &[Answered(200), Answered(502), Closed];

/// Sends the head of an answer with these fields.
fn head(c: &mut Connection, stream: u32, fields: &[(&str, &str)]) {
    c.send(Frame::headers(stream, Block::of(fields)));
}

/// Sends an answer that is all head.
fn only_head(c: &mut Connection, stream: u32, fields: &[(&str, &str)]) {
    c.send(Frame::headers(stream, Block::of(fields)).ending());
}

/// Sends a good answer.
fn answer(c: &mut Connection, stream: u32) {
    head(c, stream, &[(":status", "200"), ("content-length", "2")]);
    c.send(Frame::data(stream, *b"ok").ending());
}

/// Sends the beginning of a good answer.
fn half(c: &mut Connection, stream: u32) {
    head(c, stream, &[(":status", "200"), ("content-length", "9")]);
    c.send(Frame::data(stream, *b"half"));
}

/// Sends the rest of it.
fn rest(c: &mut Connection, stream: u32) {
    c.send(Frame::data(stream, *b"other").ending());
}

/// An origin that does what the case at hand says, or answers well.
struct Origin {
    address: SocketAddr,
    cases: &'static [Case],
    at_hand: AtomicUsize,
    is_well: AtomicBool,
    /// What the proxy must not have sent.
    faults: Mutex<Vec<String>>,
}

impl Origin {
    fn new(cases: &'static [Case]) -> Arc<Self> {
        let listener = TcpListener::bind(family::any()).expect("binds");
        let origin = Arc::new(Self {
            address: listener.local_addr().expect("bound"),
            cases,
            at_hand: AtomicUsize::new(0),
            is_well: AtomicBool::new(true),
            faults: Mutex::default(),
        });
        let accepting = Arc::clone(&origin);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let origin = Arc::clone(&accepting);
                std::thread::spawn(move || origin.serve(Connection::new(Role::Server, stream)));
            }
        });
        origin
    }

    fn serve(&self, mut c: Connection) {
        let is_well = || self.is_well.load(Ordering::SeqCst);
        let case = || &self.cases[self.at_hand.load(Ordering::SeqCst)];
        if !is_well() && case().raw {
            (case().act)(&mut c, 0);
            while !is_well() {
                std::thread::sleep(Duration::from_millis(5));
            }
            return;
        }
        c.greet(&[]);
        while let Some(stream) = c.request(false) {
            if is_well() {
                answer(&mut c, stream);
            } else {
                (case().act)(&mut c, stream);
            }
        }
        let mut faults = self.faults.lock().expect("no panic");
        let about = case().about;
        faults.extend(c.faults().iter().map(|fault| format!("{about}: {fault}")));
    }
}

/// What a client of HTTP/1 gets.
fn by_http_1(proxy: SocketAddr, content: usize) -> Outcome {
    let mut stream = connect(proxy);
    let method = if content > 0 { "POST" } else { "GET" };
    let fields = format!("Host: a.test\r\nConnection: close\r\nContent-Length: {content}");
    let _ = stream.write_all(format!("{method} / HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes());
    let mut sending = stream.try_clone().expect("a handle");
    // It may be answered before it has all.
    let sender = std::thread::spawn(move || sending.write_all(&vec![b'x'; content]));
    stream
        .set_read_timeout(Some(wait::PATIENCE))
        .expect("a timeout");
    let mut octets = Vec::new();
    let mut piece = [0; 65_536];
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        octets.extend(&piece[..read]);
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let _ = sender.join();
    read_http_1(&octets)
}

/// What an answer by HTTP/1 is, if this is all.
fn read_http_1(mut octets: &[u8]) -> Outcome {
    loop {
        let Some(end) = octets.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Outcome::Silence;
        };
        let (head, body) = octets.split_at(end + 4);
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let status = head
            .get(9..12)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        if (100..200).contains(&status) {
            octets = body;
            continue;
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let is_whole = match length.and_then(|text| text.parse::<usize>().ok()) {
            _ if matches!(status, 204 | 304) => body.is_empty(),
            Some(length) => body.len() == length,
            None => body
                .windows(5)
                .any(|last| last == b"0\r\n\r\n" || last == b"0\r\nx-"),
        };
        return if is_whole { Answered(status) } else { Closed };
    }
}

/// What a client of HTTP/2 gets.
fn by_http_2(proxy: SocketAddr, content: usize) -> Outcome {
    let mut c = Connection::new(Role::Client, connect(proxy));
    // Whatever comes may come at once.
    let most = (1 << 31) - 1;
    c.greet(&[(setting::INITIAL_WINDOW_SIZE, most)]);
    c.send(Frame::window_update(0, most - 65_535));
    if content == 0 {
        c.send(Frame::headers(1, request("GET")).ending());
    } else {
        c.send(Frame::headers(1, request("POST")));
        // No more than the first window.
        let content = content.min(60_000);
        for piece in vec![b'x'; content].chunks(16_000) {
            c.send(Frame::data(1, piece));
        }
        c.send(Frame::data(1, []).ending());
    }
    let outcome = c.outcome(1, false);
    match outcome {
        // The head may have been passed on, or not yet.
        Outcome::Reset(error::INTERNAL_ERROR) => Closed,
        _ if !c.faults().is_empty() => panic!("the proxy sent {:?}", c.faults()),
        _ => outcome,
    }
}

/// True if a request is served before long.
fn serves_again(ask: impl Fn() -> Outcome) -> bool {
    let deadline = Instant::now() + RECOVERY;
    while ask() != Answered(200) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Runs cases, each for a client of each protocol, and fails with all that is wrong.
fn check(chapter: &str, cases: &'static [Case]) {
    let origin = Origin::new(cases);
    let begin = || {
        Sluice::start(
            origin.address,
            "",
            ", protocol: h2, timeouts: {connect: 3s, response: 3s, idle: 3s}",
        )
    };
    let mut sluice = begin();
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        for (client, ask) in [
            ("HTTP/1", by_http_1 as fn(SocketAddr, usize) -> Outcome),
            ("HTTP/2", by_http_2),
        ] {
            if case.raw {
                // No connection is kept on which a request would come that has begun well.
                sluice = begin();
            }
            origin.at_hand.store(number, Ordering::SeqCst);
            origin.is_well.store(false, Ordering::SeqCst);
            let outcome = ask(sluice.address, case.content);
            println!("{client}, {}: {outcome:?}", case.about);
            if !case.allowed.contains(&outcome) {
                let allowed = case.allowed;
                wrong.push(format!(
                    "{client}, {}: {outcome:?}, not {allowed:?}",
                    case.about
                ));
            }
            origin.is_well.store(true, Ordering::SeqCst);
            if !serves_again(|| ask(sluice.address, 0)) {
                wrong.push(format!("{client}, {}: it is not served again", case.about));
            }
        }
        if let Some(complaint) = sluice.complaint() {
            panic!("{}: {complaint}", case.about);
        }
    }
    wrong.extend(origin.faults.lock().expect("no panic").drain(..));
    let all = cases.len();
    println!("{chapter}: {all} cases, each for two clients");
    let failed = wrong.len();
    assert!(
        wrong.is_empty(),
        "{failed} faults in {all} cases of {chapter}:\n  {}",
        wrong.join("\n  ")
    );
}
