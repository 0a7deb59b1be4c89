//! Chromium without a window, led by its DevTools protocol: as much of it as looking at a page
//! takes.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// How long the browser may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page. Dropping it ends the browser.
#[derive(Debug)]
pub struct Chromium {
    child: Child,
    socket: TcpStream,
    last: u64,
    /// Messages of the browser that nobody has asked for: errors and what the console says.
    pub said: Vec<Value>,
    _profile: TempDir,
}

impl Chromium {
    /// Starts the browser with a page of this size, in pixels.
    ///
    /// # Errors
    ///
    /// It is not installed, or does not start.
    pub fn start(width: u32, height: u32) -> Result<Self> {
        Self::start_with(width, height, |_, _| Ok(()))
    }

    /// As [`Self::start`], after `prepare` was told the folder that is the browser's home, and what
    /// is about to be run.
    ///
    /// # Errors
    ///
    /// As [`Self::start`], and what `prepare` says.
    pub fn start_with(
        width: u32,
        height: u32,
        prepare: impl FnOnce(&Path, &mut Command) -> Result<()>,
    ) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let mut command = Command::new("chromium");
        command.env("HOME", profile.path());
        prepare(profile.path(), &mut command)?;
        let mut child = command
            .args(["--headless", "--disable-gpu", "--hide-scrollbars"])
            // The tests run as root, for whom the browser makes no sandbox.
            .args(["--no-sandbox", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--remote-debugging-port=0", "about:blank"])
            .arg(format!("--window-size={width},{height}"))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("chromium is not installed")?;
        let log = BufReader::new(child.stderr.take().context("piped")?);
        let mut lines = log.lines().map_while(std::result::Result::ok);
        let authority = lines
            .find_map(|line| {
                let url = line.strip_prefix("DevTools listening on ws://")?;
                Some(url.split('/').next()?.to_owned())
            })
            .context("chromium does not say where it listens")?;
        std::thread::spawn(move || lines.for_each(drop));
        let path = page(&authority)?;
        let mut chromium = Self {
            child,
            socket: open(&authority, &path)?,
            last: 0,
            said: Vec::new(),
            _profile: profile,
        };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            chromium.call(&format!("{domain}.enable"), json!({}))?;
        }
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
        });
        chromium.call("Emulation.setDeviceMetricsOverride", size)?;
        Ok(chromium)
    }

    /// Calls a method of the protocol.
    ///
    /// # Errors
    ///
    /// The browser refuses, or is gone.
    pub fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.last += 1;
        let id = self.last;
        let message = json!({"id": id, "method": method, "params": parameters});
        send(&mut self.socket, message.to_string().as_bytes())?;
        loop {
            let answer: Value = serde_json::from_slice(&receive(&mut self.socket)?)?;
            if answer["id"] == id {
                ensure!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return Ok(answer["result"].clone());
            }
            let is_complaint = matches!(
                answer["method"].as_str(),
                Some("Runtime.exceptionThrown" | "Log.entryAdded" | "Runtime.consoleAPICalled")
            );
            if is_complaint {
                self.said.push(answer);
            }
        }
    }

    /// The value of an expression in the page.
    ///
    /// # Errors
    ///
    /// It throws.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let parameters = json!({"expression": expression, "returnByValue": true});
        let result = self.call("Runtime.evaluate", parameters)?;
        ensure!(
            result["exceptionDetails"].is_null(),
            "{expression}: {result}"
        );
        Ok(result["result"]["value"].clone())
    }

    /// Presses and releases a key that writes this character.
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    pub fn press(&mut self, key: &str) -> Result<()> {
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key});
            if kind == "keyDown" && key.len() == 1 {
                event["text"] = json!(key);
            }
            self.call("Input.dispatchKeyEvent", event)?;
        }
        Ok(())
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of the page's socket.
fn page(authority: &str) -> Result<String> {
    let mut stream = TcpStream::connect(authority)?;
    write!(
        stream,
        "GET /json/list HTTP/1.1\r\nHost: {authority}\r\n\r\n"
    )?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let pages: Value = serde_json::from_slice(&body)?;
    let pages = pages.as_array().context("a list")?;
    let page = pages.iter().find(|page| page["type"] == "page");
    let url = page.and_then(|page| page["webSocketDebuggerUrl"].as_str());
    let path = url.and_then(|url| url.split_once(authority));
    Ok(path.context("no page")?.1.to_owned())
}

/// Opens a WebSocket (RFC 6455). The other side is trusted to have understood the handshake.
fn open(authority: &str, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(authority)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        stream.read_exact(&mut octet)?;
        head.push(octet[0]);
    }
    ensure!(head.starts_with(b"HTTP/1.1 101"), "no WebSocket");
    Ok(stream)
}

/// Sends a text, masked as clients must.
fn send(stream: &mut TcpStream, text: &[u8]) -> Result<()> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![0x81];
    match text.len() {
        length @ ..126 => frame.push(0x80 | length as u8),
        length @ ..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(text.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
    Ok(stream.write_all(&frame)?)
}

/// The next message, put together of its frames.
fn receive(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head)?;
        let length = match head[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes(array(stream)?)),
            127 => u64::from_be_bytes(array(stream)?),
            length => u64::from(length),
        };
        let mut octets = vec![0; usize::try_from(length)?];
        stream.read_exact(&mut octets)?;
        match head[0] & 0x0f {
            0..=2 => message.extend(octets),
            8 => bail!("the browser has closed the connection"),
            _ => continue,
        }
        if head[0] & 0x80 != 0 {
            return Ok(message);
        }
    }
}

fn array<const N: usize>(stream: &mut TcpStream) -> Result<[u8; N]> {
    let mut octets = [0; N];
    stream.read_exact(&mut octets)?;
    Ok(octets)
}
