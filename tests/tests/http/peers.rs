//! The binary between curl and nginx.

use crate::support::{Client, Origin, PATIENCE, eventually, pattern};
use nix::sys::signal::{Signal, kill};
use proxy_tests::alone::{Process, proxy, unused_address};
use proxy_tests::daemon::sluice;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// nginx with a folder.
fn nginx(folder: &std::path::Path) -> (Process, SocketAddr) {
    nginx_with(folder, "")
}

/// As [`nginx`], with more directives for its server.
pub(crate) fn nginx_with(folder: &std::path::Path, directives: &str) -> (Process, SocketAddr) {
    let address = unused_address();
    let folder = folder.display();
    let config = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error;\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2;\n\
         fastcgi_temp_path {folder}/t3; uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;\n\
         server {{ listen {address}; root {folder}; {directives} }} }}\n"
    );
    let path = format!("{folder}/nginx.conf");
    std::fs::write(&path, config).expect("writes");
    let child = Command::new("nginx").args(["-c", &path]).spawn();
    let child = child.expect("nginx is installed");
    let process = Process(child);
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "nginx does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    (process, address)
}

pub(crate) fn curl(args: &[&str]) -> Vec<u8> {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20"])
        .args(args)
        .output();
    let output = output.expect("curl runs");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "curl {args:?}: {complaint}");
    output.stdout
}

#[test]
fn curl_and_nginx_understand_each_other_through_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let octets = pattern(2_000_000);
    std::fs::write(folder.path().join("file"), &octets).expect("writes");
    let (_nginx, origin) = nginx(folder.path());
    let (_proxy, address) = proxy(origin, &["--workers", "2"]);
    let url = format!("http://{address}/file");
    assert!(curl(&[&url]) == octets);
    assert!(curl(&["-r", "1000-1999", &url]) == octets[1000..2000]);
    let head = String::from_utf8(curl(&["-I", &url])).expect("text");
    assert!(head.contains("Content-Length: 2000000"), "{head}");
    // Several over one connection, one of which has no content.
    let codes = curl(&[
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{num_connects}\n",
        &url,
        &url,
    ]);
    assert!(String::from_utf8_lossy(&codes).starts_with("200 1\n"));
    let missing = format!("http://{address}/missing");
    let code = curl(&["-o", "/dev/null", "-w", "%{http_code}", &missing]);
    assert_eq!(code, b"404");
}

#[test]
fn curl_uploads_with_an_expectation() {
    let origin = Origin::new(|mut client, _| {
        while client.head().is_some() {
            client.send("HTTP/1.1 100 Continue\r\n\r\n");
            let body = client.exactly(2_000_000);
            client.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{}",
                body.len()
            ));
        }
    });
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    std::fs::write(&file, pattern(2_000_000)).expect("writes");
    let (_proxy, address) = proxy(origin.address, &[]);
    let url = format!("http://{address}/");
    let from = file.to_str().expect("text");
    let answer = curl(&["-T", from, "-H", "Expect: 100-continue", &url]);
    assert_eq!(answer, b"2000000");
}

#[test]
fn a_stop_lets_the_request_under_way_end() {
    let origin = Origin::new(|mut client, number| {
        client.head();
        if number == 0 {
            std::thread::sleep(Duration::from_millis(300));
        }
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        client.rest();
    });
    let (mut proxy, address) = proxy(origin.address, &[]);
    let mut client = Client::to(address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request is there", || origin.connections() == 1);
    kill(proxy.id(), Signal::SIGTERM).expect("told");
    let answer = client.answer();
    assert_eq!(
        (answer.text().as_str(), answer.field("connection")),
        ("done", Some("close"))
    );
    eventually("it has ended", || {
        proxy.0.try_wait().expect("asked").is_some()
    });
    assert!(proxy.0.wait().expect("ended").success());
    TcpStream::connect(address).expect_err("nobody listens");
}

#[test]
fn a_second_proxy_at_the_same_address_is_refused() {
    let origin = Origin::mirror();
    let (_proxy, address) = proxy(origin.address, &[]);
    let second = Command::new(sluice().expect("built"))
        .args(["proxy", "--from", &address.to_string(), "--to", "9"])
        .output()
        .expect("runs");
    assert_eq!(second.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&second.stderr);
    assert!(complaint.contains(&address.to_string()), "{complaint}");
}

#[test]
fn a_daemon_without_kernel_part_needs_no_root_and_reloads() {
    let origins = ["one", "two"].map(|word| {
        Origin::answering(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{word}"
        ))
    });
    let address = unused_address();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sluice.yaml");
    let socket = folder.path().join("admin.sock");
    let write = |to: SocketAddr| {
        let text = format!(
            "admin: {{socket: {}}}\n\
             listeners: [{{name: web, kind: http, address: '{}', port: {}, service: app}}]\n\
             services: [{{name: app, backends: ['{to}']}}]\n",
            socket.display(),
            address.ip(),
            address.port(),
        );
        std::fs::write(&file, text).expect("writes");
    };
    write(origins[0].address);
    let sluice = || Command::new(sluice().expect("built"));
    let daemon = sluice()
        .args(["run", "-c"])
        .arg(&file)
        .spawn()
        .expect("starts");
    let mut daemon = Process(daemon);
    eventually("it listens", || TcpStream::connect(address).is_ok());
    let mut client = Client::to(address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().text(), "one");
    write(origins[1].address);
    let ask = |command: &str| {
        let mut asked = sluice();
        asked.arg(command).arg("--socket").arg(&socket);
        let output = asked.output().expect("runs");
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command}: {complaint}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    eventually("the admin socket is served", || socket.exists());
    ask("reload");
    eventually("the same connection is served anew", || {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.answer().text() == "two"
    });
    assert!(ask("status").contains("app"));
    drop(client);
    kill(daemon.id(), Signal::SIGTERM).expect("told");
    eventually("it has ended", || {
        daemon.0.try_wait().expect("asked").is_some()
    });
    assert!(daemon.0.wait().expect("ended").success());
}
