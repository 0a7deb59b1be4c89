//! Replays public lists of HTTP/1 desync and smuggling shapes against the codec alone: what the
//! backend would be sent, judged as a strict origin would. The data is not ours and stays outside:
//! see [`vectors`].

use proxy_tests::vectors;
use proxy_userspace::message::h1::{
    ChunkDecoder, ChunkStep, Framing, HeadLimits, RequestOptions, RequestParser, parse_request,
    write_chunk_end, write_chunk_head, write_last_chunk, write_request,
};
use proxy_userspace::message::{Fields, Refusal, RequestHead};
use serde::Deserialize;

const FILE: &str = "h1-requests-lists.json";

/// Requests in it: fewer would pass unseen.
const CASES: usize = 397;

const LIMITS: HeadLimits = HeadLimits {
    fields: 100,
    head_bytes: 32 * 1024,
    target_bytes: 8 * 1024,
};

#[derive(Deserialize)]
struct Vectors {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    raw: String,
    expect: Verdict,
    why: String,
    bodies: Option<Vec<String>>,
    messages: Option<usize>,
    #[serde(default)]
    allow_more: bool,
    #[serde(default)]
    allow_smuggled: bool,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// It arrives as it was meant.
    Pass,
    /// No message arrives.
    Reject,
    /// No message arrives, or what arrives can be read in one way only.
    Safe,
}

/// A request that would reach the backend whole.
#[derive(Debug, PartialEq)]
struct Message {
    method: Vec<u8>,
    target: Vec<u8>,
    content: Vec<u8>,
}

#[test]
fn no_shape_slips_through_and_honest_ones_pass() {
    let Some(text) = vectors::read(FILE) else {
        return;
    };
    let vectors: Vectors = serde_json::from_str(&text).expect("the vectors' form");
    assert_eq!(vectors.cases.len(), CASES);
    let failures: Vec<String> = vectors
        .cases
        .iter()
        .filter_map(|case| {
            let fault = judge(case).err()?;
            Some(format!("{} ({}): {fault}", case.id, case.why))
        })
        .collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn judge(case: &Case) -> Result<(), String> {
    let input = octets(&case.raw);
    let (messages, refusal) = read_all(&input)?;
    let is_smuggled = |message: &Message| contains(&message.target, b"/smuggled");
    if !case.allow_smuggled && messages.iter().any(is_smuggled) {
        return Err("a smuggled request would reach the backend".into());
    }
    let main: Vec<&Message> = messages.iter().filter(|m| !is_smuggled(m)).collect();
    match case.expect {
        Verdict::Reject if main.is_empty() => Ok(()),
        Verdict::Reject => Err(format!("{main:?} would reach the backend")),
        Verdict::Safe if main.is_empty() => Ok(()),
        Verdict::Safe | Verdict::Pass => {
            let wanted = case.messages.unwrap_or(1);
            if main.len() != wanted && (!case.allow_more || main.is_empty()) {
                return Err(format!(
                    "{} messages, not {wanted} ({refusal:?})",
                    main.len()
                ));
            }
            let content: String = main[0].content.iter().map(|&octet| octet as char).collect();
            match &case.bodies {
                Some(bodies) if !bodies.contains(&content) => Err(format!("content {content:?}")),
                _ => Ok(()),
            }
        }
    }
}

/// What a proxy would make of a connection's octets: the messages that come whole, and why the
/// connection is closed, if it is.
fn read_all(mut input: &[u8]) -> Result<(Vec<Message>, Option<Refusal>), String> {
    let mut messages = Vec::new();
    let mut parser = RequestParser::default();
    let mut head = RequestHead::default();
    loop {
        let meta = match parser.parse(input, &LIMITS, &mut head) {
            Ok(Some(meta)) => meta,
            Ok(None) => return Ok((messages, None)),
            Err(refusal) => return Ok((messages, Some(refusal))),
        };
        input = &input[meta.consumed..];
        let (content, consumed) = match content(input, meta.framing) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok((messages, None)),
            Err(refusal) => return Ok((messages, Some(refusal))),
        };
        input = &input[consumed..];
        check_written(&head, meta.framing, &content)?;
        messages.push(Message {
            method: head.method.as_bytes().to_vec(),
            target: head.target().to_vec(),
            content,
        });
        if !meta.keep_alive {
            return Ok((messages, None));
        }
    }
}

/// The content and how many octets it takes.
type Content = Option<(Vec<u8>, usize)>;

fn content(input: &[u8], framing: Framing) -> Result<Content, Refusal> {
    let length = match framing {
        Framing::None => 0,
        Framing::Exact(length) => length as usize,
        Framing::Chunked => return chunks(input),
    };
    Ok(input
        .get(..length)
        .map(|content| (content.to_vec(), length)))
}

fn chunks(input: &[u8]) -> Result<Content, Refusal> {
    let mut decoder = ChunkDecoder::new();
    let mut content = Vec::new();
    let mut at = 0;
    loop {
        match decoder.next(&input[at..], &LIMITS)? {
            ChunkStep::Data { skip, len } => {
                content.extend_from_slice(&input[at + skip..at + skip + len]);
                at += skip + len;
            }
            ChunkStep::NeedMore { .. } => return Ok(None),
            ChunkStep::End { consumed } => return Ok(Some((content, at + consumed))),
        }
    }
}

/// What is sent on must be one message with the same meaning, to the last octet.
fn check_written(head: &RequestHead, framing: Framing, content: &[u8]) -> Result<(), String> {
    let mut out = Vec::new();
    write_request(head, &RequestOptions::default(), &mut out);
    let head_len = out.len();
    strictly_one_head(&out)?;
    if framing == Framing::Chunked {
        if !content.is_empty() {
            write_chunk_head(content.len() as u64, &mut out);
            out.extend_from_slice(content);
            write_chunk_end(&mut out);
        }
        write_last_chunk(&Fields::new(), &mut out);
    } else {
        out.extend_from_slice(content);
    }
    if head.authority().is_empty() {
        return Ok(()); // Only for HTTP/1.0; the backend's name takes its place.
    }
    let mut again = RequestHead::default();
    let meta = parse_request(&out, &LIMITS, &mut again);
    let Ok(Some(meta)) = meta else {
        return Err(format!("written, it reads as {meta:?}"));
    };
    let read = self::content(&out[meta.consumed..], meta.framing);
    let Ok(Some((read, rest))) = read else {
        return Err(format!("written content reads as {read:?}"));
    };
    if meta.consumed != head_len || head_len + rest != out.len() || read != content {
        return Err("written, it reads as another message".into());
    }
    Ok(())
}

/// Judges a written head without the codec's help.
fn strictly_one_head(out: &[u8]) -> Result<(), String> {
    let text: String = out.iter().map(|&octet| octet as char).collect();
    let (head, rest) = text.split_once("\r\n\r\n").ok_or("no end of the head")?;
    if !rest.is_empty() {
        return Err("octets after the head".into());
    }
    let lines: Vec<&str> = head.split("\r\n").collect();
    if head.replace("\r\n", "").contains(['\r', '\n', '\0']) {
        return Err("a bare line end or NUL".into());
    }
    if lines[0].split(' ').count() != 3 || !lines[0].ends_with(" HTTP/1.1") {
        return Err(format!("start line {:?}", lines[0]));
    }
    let count = |name: &str| {
        let named = |line: &&&str| {
            line.split_once(':')
                .is_some_and(|(found, _)| found.eq_ignore_ascii_case(name))
        };
        lines[1..].iter().filter(named).count()
    };
    if count("host") != 1 || !lines[1].starts_with("Host: ") {
        return Err("not one Host at the beginning".into());
    }
    if count("content-length") + count("transfer-encoding") > 1 {
        return Err("more than one framing".into());
    }
    Ok(())
}

/// The octets that a case's text stands for: each character is one, and `@R:x:3@` is `xxx`.
fn octets(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("@R:") {
        let (before, repeat) = rest.split_at(at);
        octets.extend(before.chars().map(|c| c as u8));
        let (unit, count_and_rest) = repeat[3..].split_once(':').expect("@R:x:n@");
        let (count, after) = count_and_rest.split_once('@').expect("@R:x:n@");
        let unit = unit.chars().next().expect("@R:x:n@") as u8;
        octets.extend(std::iter::repeat_n(unit, count.parse().expect("@R:x:n@")));
        rest = after;
    }
    octets.extend(rest.chars().map(|c| c as u8));
    octets
}

fn contains(octets: &[u8], part: &[u8]) -> bool {
    octets.windows(part.len()).any(|window| window == part)
}
