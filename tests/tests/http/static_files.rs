//! Files of this host, as curl gets them from `sluice serve`.

use crate::peers::curl;
use crate::support::pattern;
use proxy_tests::alone::{Process, start as listening};
use proxy_tests::daemon::sluice;
use proxy_tests::family;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// `sluice serve` of a folder.
fn serve(folder: &Path, more: &[&str]) -> (Process, SocketAddr) {
    let mut command = Command::new(sluice().expect("built"));
    command.arg("serve").arg(folder);
    let from = family::any().to_string();
    command.args(["--from", &from, "--workers", "1"]);
    listening(command.args(more))
}

/// Status, fields and content of what curl gets.
struct Got {
    status: String,
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn field(&self, name: &str) -> Option<&str> {
        crate::support::field(&self.head, name)
    }
}

fn get(address: SocketAddr, path: &str, args: &[&str]) -> Got {
    let url = format!("http://{address}{path}");
    let all = curl(&[&["-i", "--path-as-is", &url], args].concat());
    let end = all
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("a head")
        + 4;
    let head = String::from_utf8(all[..end].to_vec()).expect("text");
    Got {
        status: head[9..12].to_owned(),
        head,
        body: all[end..].to_vec(),
    }
}

#[test]
fn curl_gets_files_ranges_and_what_has_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let octets = pattern(300_000);
    fs::write(folder.path().join("a.bin"), &octets).expect("writes");
    // The tag of a file that was written just now is weak: it may be written again in the same tick.
    let file = fs::File::options()
        .append(true)
        .open(folder.path().join("a.bin"));
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    file.and_then(|file| file.set_modified(hour_ago))
        .expect("set back");
    fs::write(folder.path().join("index.html"), "<p>hello").expect("writes");
    fs::create_dir(folder.path().join("sub")).expect("made");
    let (_serve, at) = serve(folder.path(), &[]);

    let whole = get(at, "/a.bin", &[]);
    assert_eq!(whole.status, "200");
    assert!(whole.body == octets);
    assert_eq!(whole.field("content-length"), Some("300000"));
    assert_eq!(whole.field("accept-ranges"), Some("bytes"));
    assert_eq!(whole.field("server"), Some("sluice"));
    assert!(whole.field("last-modified").is_some() && whole.field("date").is_some());
    let etag = whole.field("etag").expect("an entity tag").to_owned();

    let page = get(at, "/", &[]);
    assert_eq!(page.body, b"<p>hello");
    assert!(
        page.field("content-type")
            .expect("a type")
            .starts_with("text/html")
    );

    for (range, from, to) in [
        ("0-9", 0, 10),
        ("299990-", 299_990, 300_000),
        ("-7", 299_993, 300_000),
    ] {
        let part = get(at, "/a.bin", &["-r", range]);
        assert_eq!(part.status, "206", "{range}");
        assert!(part.body == octets[from..to], "{range}");
        let told = format!("bytes {from}-{}/300000", to - 1);
        assert_eq!(part.field("content-range"), Some(told.as_str()));
    }
    let parts = get(at, "/a.bin", &["-r", "0-1,10-11"]);
    assert_eq!(parts.status, "206");
    let kind = parts.field("content-type").expect("a type");
    assert!(
        kind.starts_with("multipart/byteranges; boundary="),
        "{kind}"
    );
    let text = String::from_utf8_lossy(&parts.body).into_owned();
    assert!(text.contains("Content-Range: bytes 10-11/300000"), "{text}");
    let beyond = get(at, "/a.bin", &["-r", "300000-"]);
    assert_eq!(beyond.status, "416");
    assert_eq!(beyond.field("content-range"), Some("bytes */300000"));

    let same = format!("If-None-Match: {etag}");
    let kept = get(at, "/a.bin", &["-H", &same]);
    assert_eq!((kept.status.as_str(), kept.body.len()), ("304", 0));
    assert_eq!(kept.field("etag"), Some(etag.as_str()));
    let since = format!(
        "If-Modified-Since: {}",
        whole.field("last-modified").expect("a time")
    );
    assert_eq!(get(at, "/a.bin", &["-H", &since]).status, "304");
    assert_eq!(
        get(at, "/a.bin", &["-H", "If-Match: \"other\""]).status,
        "412"
    );
    let resumed = format!("If-Range: {etag}");
    assert_eq!(
        get(at, "/a.bin", &["-r", "0-9", "-H", &resumed]).status,
        "206"
    );
    let stale = ["-r", "0-9", "-H", "If-Range: \"other\""];
    let anew = get(at, "/a.bin", &stale);
    assert_eq!((anew.status.as_str(), anew.body.len()), ("200", 300_000));

    let head = get(at, "/a.bin", &["--head"]);
    assert_eq!(
        (head.field("content-length"), head.body.len()),
        (Some("300000"), 0)
    );
    let post = get(at, "/a.bin", &["-d", "x"]);
    assert_eq!(
        (post.status.as_str(), post.field("allow")),
        ("405", Some("GET, HEAD"))
    );
    assert_eq!(
        get(at, "/sub/", &[]).status,
        "404",
        "not listed unless asked for"
    );
    assert_eq!(get(at, "/missing", &[]).status, "404");
}

#[test]
fn curl_gets_the_variant_that_it_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, content: &[u8]| fs::write(folder.path().join(name), content);
    file("app.js", b"alert(1)").expect("writes");
    let gzip = Command::new("gzip")
        .arg("-k")
        .arg(folder.path().join("app.js"))
        .status();
    assert!(gzip.expect("gzip runs").success());
    let (_serve, at) = serve(folder.path(), &[]);
    let plain = get(at, "/app.js", &[]);
    assert_eq!(
        (plain.body.as_slice(), plain.field("content-encoding")),
        (&b"alert(1)"[..], None)
    );
    assert_eq!(plain.field("vary"), Some("Accept-Encoding"));
    let packed = get(at, "/app.js", &["--compressed"]);
    assert_eq!(packed.field("content-encoding"), Some("gzip"));
    assert_eq!(packed.body, b"alert(1)", "unpacked by curl");
    assert_ne!(packed.field("etag"), plain.field("etag"));
    let refused = get(at, "/app.js", &["-H", "Accept-Encoding: gzip;q=0"]);
    assert_eq!(refused.field("content-encoding"), None);
}

#[test]
fn nothing_outside_the_folder_is_served() {
    let all = tempfile::tempdir().expect("a folder");
    let folder = all.path().join("public");
    fs::create_dir(&folder).expect("made");
    fs::write(all.path().join("secret"), "s3cret").expect("writes");
    fs::write(folder.join("open"), "open").expect("writes");
    fs::write(folder.join(".hidden"), "s3cret").expect("writes");
    symlink("../secret", folder.join("link")).expect("links");
    symlink(all.path(), folder.join("up")).expect("links");
    symlink("/etc", folder.join("etc")).expect("links");
    symlink("open", folder.join("inside")).expect("links");
    let (_serve, at) = serve(&folder, &["--listing"]);
    for path in [
        "/../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/a/../../secret",
        "/..;/secret",
        "/..\\secret",
        "/%2e%2e%2fsecret",
        "/./../secret",
        "//../secret",
        "/open/../../secret",
        "/.hidden",
        "/%2ehidden",
        "/link",
        "/up/secret",
        "/etc/passwd",
        "/open%00",
    ] {
        let got = get(at, path, &[]);
        assert!(
            got.status == "404" || got.status == "400",
            "{path}: {}",
            got.head
        );
        let text = String::from_utf8_lossy(&got.body).into_owned();
        assert!(
            !text.contains("s3cret") && !text.contains("root:"),
            "{path}"
        );
    }
    assert_eq!(
        get(at, "/inside", &[]).body,
        b"open",
        "a link that stays inside"
    );
    let page = get(at, "/", &[]);
    let text = String::from_utf8(page.body).expect("text");
    assert!(text.contains("open") && !text.contains("hidden"), "{text}");
}

#[test]
fn an_application_gets_its_page_and_a_mistake_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("app.html"), "app").expect("writes");
    let words = ["--fallback", "app.html", "--index", "none"];
    let (_serve, at) = serve(folder.path(), &words);
    let deep = get(at, "/some/where", &[]);
    assert_eq!(
        (deep.status.as_str(), deep.body.as_slice()),
        ("200", &b"app"[..])
    );
    let missing = Command::new(sluice().expect("built"))
        .args(["serve", "/nowhere/at/all"])
        .output()
        .expect("runs");
    assert_eq!(missing.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&missing.stderr);
    assert!(complaint.contains("/nowhere/at/all"), "{complaint}");
}
