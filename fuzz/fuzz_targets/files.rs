//! Requests for files: whatever they ask for, what is answered is within the file and its length is
//! the sum of its parts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_fuzz::WIDE;
use proxy_fuzz::config::model::http::{Coding, Files};
use proxy_fuzz::files::{Body, Part, Site};
use proxy_fuzz::message::h1::parse_request;
use proxy_fuzz::message::{Length, RequestHead};
use std::sync::LazyLock;
use tempfile::TempDir;

/// Octets of each file.
const SIZE: u64 = 300;

static SITE: LazyLock<(Site, TempDir)> = LazyLock::new(|| {
    let outer = tempfile::tempdir().expect("a folder");
    let root = outer.path().join("root");
    std::fs::create_dir(&root).expect("a folder");
    std::fs::create_dir(root.join("b")).expect("a folder");
    std::fs::write(outer.path().join("secret"), [b'!'; 77]).expect("writes");
    for name in ["a", "a.gz", "a.br", "b/index.html", ".hidden"] {
        std::fs::write(root.join(name), [b'x'; SIZE as usize]).expect("writes");
    }
    std::os::unix::fs::symlink("../secret", root.join("link")).expect("links");
    let config = Files {
        root,
        index: vec!["index.html".to_owned()],
        list: true,
        strip_prefix: "/".to_owned(),
        precompressed: vec![Coding::Brotli, Coding::Gzip],
        cache_control: None,
        fallback: None,
    };
    (Site::open(&config).expect("opens"), outer)
});

fuzz_target!(|input: &[u8]| {
    let mut head = RequestHead::default();
    if !matches!(parse_request(input, &WIDE, &mut head), Ok(Some(_))) {
        return;
    }
    let answer = SITE.0.answer(&head, 1_700_000_000, 7);
    let status = answer.head.status;
    match answer.body {
        Body::File(file, parts) => {
            assert!(matches!(status, 200 | 206), "{status}");
            assert_eq!(file.metadata().expect("asked").len(), SIZE, "not ours");
            let mut sum = 0;
            let mut of_file = 0;
            for part in &parts {
                sum += match part {
                    Part::Range(range) => {
                        assert!(range.start < range.end && range.end <= SIZE, "{range:?}");
                        of_file += range.end - range.start;
                        range.end - range.start
                    }
                    Part::Octets(octets) => octets.len() as u64,
                };
            }
            assert!(of_file <= SIZE, "more than the whole");
            assert_eq!(answer.head.length, Length::Exact(sum));
        }
        Body::Octets(octets) => {
            assert_eq!(answer.head.length, Length::Exact(octets.len() as u64));
        }
        Body::ErrorPage => assert!(status >= 300, "{status}"),
        Body::None => {}
    }
});
