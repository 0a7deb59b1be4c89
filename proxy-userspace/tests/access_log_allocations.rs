//! A line of an access log allocates nothing: workers write one per request.

use proxy_userspace::config::model::http::LogFormat;
use proxy_userspace::message::{Length, Name, RequestHead, ResponseHead};
use proxy_userspace::observe::access_log::{Attempt, End, Format, Octets, Record};
use proxy_userspace::observe::calendar::Calendar;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, and how often this thread asked it.
struct Counting;

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; `block` came from the system's allocator.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn lines_of_all_formats_allocate_nothing() {
    let mut head = RequestHead::default();
    head.set_authority(b"example.com");
    head.set_target(b"/path?a=1");
    head.fields.append(Name::UserAgent, b"curl/8 \"x\"\xff");
    head.fields.append(Name::Cookie, b"a=b");
    head.fields
        .append(Name::Authorization, b"Basic dXNlcjpwdw==");
    head.fields.append_named(b"X-Other", b"1");
    let response = ResponseHead {
        length: Length::Exact(5),
        ..ResponseHead::default()
    };
    let attempts = [Attempt {
        backend: "b1",
        address: "[2001:db8::1]:80".parse().expect("an address"),
        reused: false,
        status: 200,
        end: End::Complete,
        connect: Some(Duration::from_millis(1)),
        head: Some(Duration::from_millis(2)),
        total: Duration::from_millis(3),
        sent: 1,
        received: Octets::default(),
    }];
    let client = "[2001:db8::2]:1".parse().expect("an address");
    let record = Record {
        request: Some(&head),
        response: Some(&response),
        attempts: &attempts,
        trace: Some(([1; 16], [2; 8])),
        ..Record::new("in", client, client)
    };
    let template = "$remote_user $http_x_other $cookie_a $arg_a $upstream_addr $time_iso8601 \
        $trace_id $sent_http_content_length $response_flags";
    let mut calendar = Calendar::new(|_| 0);
    let mut out = Vec::with_capacity(16 << 10);
    for format in [
        LogFormat::Json,
        LogFormat::Haproxy,
        LogFormat::Combined,
        LogFormat::Common,
        LogFormat::Template(template.to_owned()),
        LogFormat::Template(format!("escape=json {template}")),
    ] {
        let compiled = Format::compile(&format).expect("valid");
        let before = ALLOCATIONS.get();
        compiled.line(&record, &mut calendar, &mut out);
        assert_eq!(ALLOCATIONS.get(), before, "{format:?}");
    }
    assert_eq!(out.iter().filter(|&&octet| octet == b'\n').count(), 6);
}
