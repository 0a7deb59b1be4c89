use super::*;
use crate::config::model::http::{Coding, Files};
use crate::message::{Length, Method, Name, RequestHead};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const NOW: u64 = 2_000_000_000;
const CONTENT: &[u8] = b"0123456789abcdefghij";

fn config(root: &Path) -> Files {
    Files {
        root: root.to_owned(),
        index: vec!["index.html".to_owned()],
        list: false,
        strip_prefix: "/".to_owned(),
        precompressed: Vec::new(),
        cache_control: None,
        fallback: None,
    }
}

fn write(folder: &Path, name: &str, content: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("makes folders");
    fs::write(&path, content).expect("writes");
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW - 1000);
    File::open(&path)
        .expect("opens")
        .set_modified(old)
        .expect("sets");
}

/// `outside/secret`, and `root` with files and links of all kinds.
fn folder() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
    write(&outside, "secret", b"secret");
    write(&root, "a.txt", CONTENT);
    write(&root, "sub/index.html", b"<p>");
    write(&root, "bare/x", b"x");
    write(&root, "a b&c.txt", b"odd");
    write(&root, ".hidden", b"hidden");
    write(&root, "empty.txt", b"");
    symlink("../outside/secret", root.join("relative")).expect("links");
    symlink(outside.join("secret"), root.join("absolute")).expect("links");
    symlink("../outside", root.join("folder")).expect("links");
    symlink("circle", root.join("circle")).expect("links");
    symlink("/proc/self/root", root.join("magic")).expect("links");
    symlink("sub/../a.txt", root.join("inside")).expect("links");
    nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
    folder
}

fn site(folder: &TempDir) -> Site {
    Site::open(&config(&folder.path().join("root"))).expect("opens")
}

fn request(target: &str, fields: &[(Name, &str)]) -> RequestHead {
    let mut request = RequestHead::default();
    request.set_target(target.as_bytes());
    for (name, value) in fields {
        request.fields.append(*name, value.as_bytes());
    }
    request
}

fn get(site: &Site, target: &str, fields: &[(Name, &str)]) -> Answer {
    site.answer(&request(target, fields), NOW, 0xb0)
}

/// The octets that would be sent.
fn content(answer: Answer) -> Vec<u8> {
    let mut content = Vec::new();
    match answer.body {
        Body::None | Body::ErrorPage => {}
        Body::Octets(octets) => content = octets,
        Body::File(mut file, parts) => {
            for part in parts {
                match part {
                    Part::Octets(octets) => content.extend(octets),
                    Part::Range(range) => {
                        file.seek(SeekFrom::Start(range.start)).expect("seeks");
                        let mut octets = vec![0; (range.end - range.start) as usize];
                        file.read_exact(&mut octets).expect("reads");
                        content.extend(octets);
                    }
                }
            }
        }
    }
    let announced = match answer.head.length {
        Length::Exact(length) => length,
        Length::None | Length::Unknown => 0,
    };
    assert_eq!(content.len() as u64, announced);
    content
}

fn field(answer: &Answer, name: Name) -> String {
    let value = answer.head.fields.get(name).unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}

#[test]
fn a_file_is_served_with_what_caches_need() {
    let folder = folder();
    let answer = get(&site(&folder), "/a.txt?v=1", &[]);
    assert_eq!(answer.head.status, 200);
    assert_eq!(
        field(&answer, Name::ContentType),
        "text/plain; charset=utf-8"
    );
    assert_eq!(field(&answer, Name::AcceptRanges), "bytes");
    assert_eq!(
        field(&answer, Name::LastModified),
        "Wed, 18 May 2033 03:16:40 GMT"
    );
    assert_eq!(field(&answer, Name::Etag), "\"77359018.0-14\"");
    assert!(!answer.head.fields.contains(Name::Vary));
    assert_eq!(content(answer), CONTENT);
    let fresh = site(&folder).answer(&request("/a.txt", &[]), NOW - 1000, 0);
    assert!(field(&fresh, Name::Etag).starts_with("W/"));
    let empty = get(&site(&folder), "/empty.txt", &[]);
    assert_eq!(
        (empty.head.status, empty.head.length),
        (200, Length::Exact(0))
    );
    assert_eq!(content(empty), b"");
}

#[test]
fn nothing_outside_the_root_is_served_whatever_links_there_are() {
    let folder = folder();
    for (how, site) in [("kernel", site(&folder)), ("walk", site(&folder).walking())] {
        for target in [
            "/relative",
            "/absolute",
            "/folder/secret",
            "/folder/",
            "/circle",
            "/magic/etc/passwd",
            "/../outside/secret",
            "/%2e%2e/outside/secret",
            "/..%2foutside%2fsecret",
            "/sub/../../outside/secret",
            "/.hidden",
            "/pipe",
            "/a.txt/",
            "/a.txt/b",
            "/none",
            "/bare/",
            "/bare",
            "/a.txt%00.png",
            "*",
            "",
        ] {
            let answer = get(&site, target, &[]);
            assert_eq!(answer.head.status, 404, "{target} by {how}");
            assert_eq!(content(answer), b"");
        }
        let long = format!("/{}", "x".repeat(5000));
        assert_eq!(get(&site, &long, &[]).head.status, 404);
        assert_eq!(content(get(&site, "/sub/", &[])), b"<p>", "{how}");
    }
    // Links that stay inside are followed where the kernel can see to it.
    assert_eq!(content(get(&site(&folder), "/inside", &[])), CONTENT);
    assert_eq!(
        get(&site(&folder).walking(), "/inside", &[]).head.status,
        404
    );
}

#[test]
fn a_folder_without_its_slash_is_elsewhere() {
    let folder = folder();
    let site = site(&folder);
    for (target, location) in [
        ("/sub", "./sub/"),
        ("/sub?a=b", "./sub/?a=b"),
        ("//sub", "./sub/"),
        ("/s%75b", "./s%75b/"),
    ] {
        let answer = get(&site, target, &[]);
        assert_eq!(answer.head.status, 301, "{target}");
        assert_eq!(field(&answer, Name::Location), location);
    }
    assert_eq!(content(get(&site, "/sub/", &[])), b"<p>");
}

#[test]
fn folders_are_listed_only_if_asked() {
    let folder = folder();
    let mut config = config(&folder.path().join("root"));
    config.list = true;
    config.index.clear();
    let site = Site::open(&config).expect("opens");
    let page = String::from_utf8(content(get(&site, "/", &[]))).expect("UTF-8");
    assert!(
        page.contains("<a href=\"./a%20b%26c.txt\">a b&amp;c.txt</a></td><td>3<"),
        "{page}"
    );
    assert!(page.contains("<a href=\"./sub/\">sub/</a>"));
    assert!(!page.contains("hidden") && !page.contains("pipe") && !page.contains("\"../\""));
    assert_eq!(get(&site, "/bare", &[]).head.status, 301);
    let mut head = request("/", &[]);
    head.method = Method::Head;
    let answer = site.answer(&head, NOW, 0);
    assert_eq!(answer.head.described_length, Some(page.len() as u64));
}

#[test]
fn ranges_are_parts_of_the_file() {
    let folder = folder();
    let site = site(&folder);
    let one = get(&site, "/a.txt", &[(Name::Range, "bytes=2-4")]);
    assert_eq!(one.head.status, 206);
    assert_eq!(field(&one, Name::ContentRange), "bytes 2-4/20");
    assert_eq!(content(one), b"234");

    let two = get(&site, "/a.txt", &[(Name::Range, "bytes=0-0,-2")]);
    assert_eq!(two.head.status, 206);
    assert_eq!(
        field(&two, Name::ContentType),
        "multipart/byteranges; boundary=00000000000000b0"
    );
    assert!(!two.head.fields.contains(Name::ContentRange));
    let text = String::from_utf8(content(two)).expect("UTF-8");
    let part =
        "--00000000000000b0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes";
    assert_eq!(
        text,
        format!("{part} 0-0/20\r\n\r\n0\r\n{part} 18-19/20\r\n\r\nij\r\n--00000000000000b0--\r\n")
    );

    let none = get(&site, "/a.txt", &[(Name::Range, "bytes=20-")]);
    assert_eq!(none.head.status, 416);
    assert_eq!(field(&none, Name::ContentRange), "bytes */20");

    let stale = [(Name::Range, "bytes=2-4"), (Name::IfRange, "\"other\"")];
    assert_eq!(get(&site, "/a.txt", &stale).head.status, 200);
    let right = [
        (Name::Range, "bytes=2-4"),
        (Name::IfRange, "\"77359018.0-14\""),
    ];
    assert_eq!(get(&site, "/a.txt", &right).head.status, 206);
    let mut head = request("/a.txt", &[(Name::Range, "bytes=2-4")]);
    head.method = Method::Head;
    let answer = site.answer(&head, NOW, 0);
    assert_eq!(
        (answer.head.status, answer.head.described_length),
        (200, Some(20))
    );
    assert!(matches!(answer.body, Body::None));
}

#[test]
fn conditions_are_obeyed() {
    let folder = folder();
    let mut config = config(&folder.path().join("root"));
    config.cache_control = Some("max-age=60".to_owned());
    let site = Site::open(&config).expect("opens");
    let fresh = get(&site, "/a.txt", &[(Name::IfNoneMatch, "\"77359018.0-14\"")]);
    assert_eq!((fresh.head.status, fresh.head.length), (304, Length::None));
    assert_eq!(field(&fresh, Name::CacheControl), "max-age=60");
    assert!(fresh.head.fields.contains(Name::Etag));
    assert!(matches!(fresh.body, Body::None));
    let failed = get(&site, "/a.txt", &[(Name::IfMatch, "\"x\"")]);
    assert_eq!(failed.head.status, 412);
}

#[test]
fn other_methods_are_refused_with_those_that_are_not() {
    let folder = folder();
    for method in [b"POST".as_slice(), b"OPTIONS", b"get"] {
        let mut request = request("/a.txt", &[]);
        request.method = Method::of(method);
        let answer = site(&folder).answer(&request, NOW, 0);
        assert_eq!(answer.head.status, 405);
        assert_eq!(field(&answer, Name::Allow), "GET, HEAD");
    }
}

#[test]
fn precompressed_variants_are_served_to_those_who_take_them() {
    let folder = folder();
    let root = folder.path().join("root");
    write(&root, "a.txt.gz", b"gz");
    write(&root, "a.txt.br", b"br");
    let mut config = config(&root);
    config.precompressed = vec![Coding::Zstd, Coding::Brotli, Coding::Gzip];
    let site = Site::open(&config).expect("opens");
    for (accept, coding, octets) in [
        ("gzip, br, zstd", "br", &b"br"[..]),
        ("gzip", "gzip", b"gz"),
        ("zstd", "", CONTENT),
        ("gzip;q=0", "", CONTENT),
    ] {
        let answer = get(&site, "/a.txt", &[(Name::AcceptEncoding, accept)]);
        assert_eq!(field(&answer, Name::ContentEncoding), coding, "{accept}");
        assert_eq!(
            field(&answer, Name::ContentType),
            "text/plain; charset=utf-8"
        );
        assert_eq!(field(&answer, Name::Vary), "Accept-Encoding");
        assert!(field(&answer, Name::Etag).contains(coding));
        assert_eq!(content(answer), octets);
    }
}

#[test]
fn a_fallback_stands_for_what_is_not_there() {
    let folder = folder();
    let mut config = config(&folder.path().join("root"));
    config.fallback = Some("/sub/index.html".to_owned());
    let site = Site::open(&config).expect("opens");
    let answer = get(&site, "/app/route", &[]);
    assert_eq!(answer.head.status, 200);
    assert_eq!(
        field(&answer, Name::ContentType),
        "text/html; charset=utf-8"
    );
    assert_eq!(content(answer), b"<p>");
    assert_eq!(content(get(&site, "/a.txt", &[])), CONTENT);
}

#[test]
fn a_root_that_is_none_is_an_error() {
    let folder = folder();
    for name in ["none", "root/a.txt"] {
        assert!(Site::open(&config(&folder.path().join(name))).is_err());
    }
}
