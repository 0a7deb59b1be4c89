//! What the programs tell, and what the kernel is asked: counters, samples, captures, next hops.

use super::*;
use proxy_common::trace::threshold;
use proxy_userspace::kernel::capture::{CaptureFilter, CaptureWriter, Names};
use proxy_userspace::kernel::neighbours::{Neighbours, source_for};
use std::time::Instant;
use tokio::runtime::Runtime;

/// Has `lb1` send a SYN to the VIP; it arrives at `lb0`.
fn send_a_syn() -> Result<()> {
    ip("addr replace 203.0.113.1/24 dev lb1")?;
    ip("route replace 192.0.2.1/32 dev lb1")?;
    ip("neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev lb1")?;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let vip: std::net::SocketAddr = "192.0.2.1:80".parse()?;
    // Nobody answers; the attempt is all that is wanted.
    let _ = socket.connect(&vip.into());
    Ok(())
}

/// Waits for a future, for at most two seconds.
fn wait_for<T>(runtime: &Runtime, future: impl Future<Output = std::io::Result<T>>) -> Result<T> {
    let limited = async { tokio::time::timeout(Duration::from_secs(2), future).await };
    Ok(runtime.block_on(limited).context("nothing came")??)
}

#[test]
fn packets_are_counted_and_sampled() {
    in_netns("events", |place| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let _entered = runtime.enter();
        let plane = running(place)?;
        let sampling = Settings {
            trace_below: threshold(1),
            ..settings(&plane)
        };
        plane.store()?.apply(&MapEdit::Settings(sampling))?;
        let mut events = plane.events()?;
        let before: u64 = plane.stats()?.reasons()?.iter().map(|(_, n)| n).sum();
        send_a_syn()?;
        let event = wait_for(&runtime, events.next())?;
        ensure!(event.length > 0 && event.flow != 0, "{event:?}");
        let after: u64 = plane.stats()?.reasons()?.iter().map(|(_, n)| n).sum();
        ensure!(after > before, "{before} {after}");
        Ok(())
    });
}

/// A network namespace with a name, taken away at the end.
struct NamedNetns(String);

impl NamedNetns {
    fn new() -> Result<Self> {
        let name = format!("sluice-loader-{}", std::process::id());
        ip(&format!("netns add {name}"))?;
        Ok(Self(name))
    }
}

impl Drop for NamedNetns {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.0));
    }
}

#[test]
fn next_hops_are_resolved_without_traffic() {
    in_netns("neighbours", |_| {
        let backend = NamedNetns::new()?;
        let name = &backend.0;
        ip(&format!("link set lb1 netns {name}"))?;
        ip(&format!("-n {name} addr add 10.9.0.2/24 dev lb1"))?;
        ip(&format!("-n {name} link set lb1 up"))?;
        ip("addr add 10.9.0.1/24 dev lb0")?;
        let [here, there, nowhere] = ["10.9.0.1", "10.9.0.2", "10.10.0.1"].map(str::parse);
        let (here, there, nowhere) = (here?, there?, nowhere?);
        ensure!(source_for(there)? == Some(here));

        let mut neighbours = Neighbours::default();
        neighbours.set([here, there, nowhere]);
        let report = neighbours.refresh()?;
        ensure!(report.unroutable == [nowhere], "{report:?}");
        ensure!(report.pending == [there], "{report:?}");
        let deadline = Instant::now() + Duration::from_secs(5);
        while !neighbours.refresh()?.pending.is_empty() {
            ensure!(Instant::now() < deadline, "not resolved");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    });
}

/// Names for a capture file.
struct NoNames;

impl Names for NoNames {
    fn interface(&self, _: u32) -> Option<String> {
        Some("lb0".to_owned())
    }
    fn service(&self, _: u16) -> Option<String> {
        None
    }
    fn backend(&self, _: u16) -> Option<String> {
        None
    }
}

#[test]
fn a_capture_shows_what_arrived_and_what_became_of_it() {
    in_netns("pcap", |place| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let _entered = runtime.enter();
        let plane = running(place)?;
        let mut captures = plane.captures()?;
        plane.store()?.set_capture(Some(200))?;
        send_a_syn()?;

        let file = tempfile::NamedTempFile::new()?;
        let filter = CaptureFilter::parse("host 192.0.2.1 and port 80", |_| None)?;
        let mut writer = CaptureWriter::new(file.reopen()?, filter)?;
        // Each packet makes two records; the first packets may be of the kernel's own making.
        loop {
            let packet = wait_for(&runtime, captures.next())?;
            let is_syn = packet.header.service == 1;
            writer.push(packet, &NoNames)?;
            if is_syn {
                break;
            }
        }
        ensure!(writer.finish(&NoNames)? >= 1);
        let tcpdump = Command::new("tcpdump")
            .args(["-nn", "-r"])
            .arg(file.path())
            .output()
            .context("tcpdump")?;
        let text = String::from_utf8_lossy(&tcpdump.stdout);
        ensure!(text.contains("> 192.0.2.1.80: Flags [S]"), "{tcpdump:?}");
        Ok(())
    });
}
