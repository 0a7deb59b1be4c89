//! The demonstration keeps its promises: it shows what it says, ends well, and leaves nothing, also
//! when Ctrl-C ends it.
//!
//! Whatever it makes bears its process id (namespaces, pins, cgroups), is in its session (processes)
//! or in its temporary folder, so that these tests run beside others.

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use proxy_tests::daemon::sluice;
use proxy_tests::netns::{BPFFS, PREFIX};
use proxy_tests::privilege;
use proxy_tests::wait;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use tempfile::TempDir;

/// The modes, in the order in which they are shown.
const MODES: [&str; 6] = ["nat", "full-nat", "dsr-l2", "dsr-ipip", "dsr-gue", "local"];

/// Requests per mode: enough for each backend to get some.
const REQUESTS: &str = "--requests=60";

#[test]
fn every_mode_is_shown_over_ipv4() -> Result<()> {
    every_mode_is_shown(&[])
}

#[test]
fn every_mode_is_shown_over_ipv6() -> Result<()> {
    every_mode_is_shown(&["--ipv6"])
}

fn every_mode_is_shown(args: &[&str]) -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let demo = Demo::start(&[&[REQUESTS], args].concat())?;
    let (status, said) = demo.end()?;
    ensure!(status.success(), "{status}\n{said}");
    let vip = if args.is_empty() {
        "192.0.2.10"
    } else {
        "2001:db8::10"
    };
    ensure!(said.contains(vip), "no {vip} in\n{said}");
    // A scene for each, and a line for each at the end.
    for mode in MODES {
        let lines = said.lines().filter(|line| line.trim().starts_with(mode));
        let lines: Vec<_> = lines.collect();
        let measured = lines.iter().any(|line| line.contains(" 60 "));
        ensure!(lines.len() >= 2 && measured, "{mode}: {lines:?}\n{said}");
    }
    for (promise, times) in [
        ("none of the", 5),
        ("open connections still answer", 5),
        ("detached, nothing pinned", 6),
        ("60 new flows", 1),
        ("6 modes in", 1),
    ] {
        let found = said.matches(promise).count();
        ensure!(found == times, "{promise:?} {found} times in\n{said}");
    }
    Ok(())
}

#[test]
fn programs_go_through_the_mesh_unchanged() -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let demo = Demo::start(&["mesh"])?;
    let (status, said) = demo.end()?;
    ensure!(status.success(), "{status}\n{said}");
    for promise in [
        "the shop, version 1  (no route",
        "the shop, version 2  (a route by a header)",
        "reviews  (of two backends one answers 503",
        "(the peer that it dialled)",
        "attempts   2",
        "sluice_mesh_connections_total",
        "sluice_retries_total",
        "the hop ",
        "the next connection goes where it was to go",
        "Everything is removed.",
    ] {
        ensure!(said.contains(promise), "no {promise:?} in\n{said}");
    }
    Ok(())
}

#[test]
fn interrupted_in_the_middle_it_leaves_nothing() -> Result<()> {
    interrupted(&[REQUESTS], "ready after")
}

#[test]
fn interrupted_in_the_middle_the_mesh_leaves_nothing() -> Result<()> {
    interrupted(&["mesh"], "packet filter:")
}

/// Ctrl-C as soon as it has said `at`.
fn interrupted(args: &[&str], at: &str) -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    let mut demo = Demo::start(args)?;
    demo.read_until(at)?;
    let made = demo.left()?;
    ensure!(
        made.iter().any(|what| what.starts_with("namespace"))
            && made.iter().any(|what| what.starts_with("process")),
        "there was nothing to remove: {made:?}"
    );
    // A terminal tells all that it started.
    killpg(demo.pid(), Signal::SIGINT)?;
    let (status, said) = demo.end()?;
    ensure!(status.code() == Some(130), "{status}\n{said}");
    ensure!(
        said.contains("interrupted; everything is removed"),
        "{said}"
    );
    Ok(())
}

/// A demonstration under way.
struct Demo {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    said: String,
    folder: TempDir,
}

impl Demo {
    fn start(args: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
        command
            .args(args)
            .env("SLUICE_BIN", sluice()?)
            .env("TMPDIR", folder.path())
            .stdout(Stdio::piped());
        let new_session = || {
            nix::unistd::setsid()?;
            Ok(())
        };
        // SAFETY: one system call that neither allocates nor takes a lock.
        unsafe { command.pre_exec(new_session) };
        let mut child = command.spawn().context("starting the demonstration")?;
        let output = BufReader::new(child.stdout.take().context("piped")?);
        Ok(Self {
            child,
            output,
            said: String::new(),
            folder,
        })
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Reads its output up to and with the line that has this.
    fn read_until(&mut self, text: &str) -> Result<()> {
        loop {
            let start = self.said.len();
            if self.output.read_line(&mut self.said)? == 0 {
                bail!("it never said {text:?}:\n{}", self.said);
            }
            if self.said[start..].contains(text) {
                return Ok(());
            }
        }
    }

    /// Waits for its end; how it ended, and all that it said. Fails if it left something.
    fn end(mut self) -> Result<(ExitStatus, String)> {
        self.output.read_to_string(&mut self.said)?;
        let status = self.child.wait()?;
        // A process that was killed is still there for a moment.
        let mut left = Vec::new();
        let gone = wait::until("nothing of it is left", || {
            left = self.left()?;
            Ok(left.is_empty())
        });
        gone.with_context(|| format!("it left {left:?}\n{}", self.said))?;
        Ok((status, std::mem::take(&mut self.said)))
    }

    /// What there is of it: namespaces, pins, cgroups, processes other than itself, files.
    fn left(&self) -> Result<Vec<String>> {
        let prefix = format!("{PREFIX}{}-", self.child.id());
        let cgroups = proxy_userspace::sockets::cgroup_root()?;
        let mut left = Vec::new();
        for (what, folder, prefix) in [
            ("namespace", Path::new("/run/netns"), prefix.as_str()),
            ("pin", Path::new(BPFFS), prefix.as_str()),
            ("cgroup", cgroups.as_path(), prefix.as_str()),
            ("file", self.folder.path(), ""),
        ] {
            let names = names_in(folder)?;
            let of_it = names.into_iter().filter(|name| name.starts_with(prefix));
            left.extend(of_it.map(|name| format!("{what} {name}")));
        }
        let session = self.child.id();
        let processes = names_in(Path::new("/proc"))?;
        for id in processes.iter().filter_map(|name| name.parse().ok()) {
            if id != session
                && let Some((name, its)) = session_of(id)
                && its == session
            {
                left.push(format!("process {id} ({name})"));
            }
        }
        Ok(left)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Of a failed test. What a killed one leaves, the next that makes namespaces sweeps.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Name and session of a process, if it is still there.
fn session_of(id: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (head, rest) = stat.rsplit_once(')')?;
    // State, parent, group, session.
    let session = rest.split_whitespace().nth(3)?.parse().ok()?;
    let (_, name) = head.split_once('(')?;
    Some((name.to_owned(), session))
}

/// Names of what is in a folder; none if there is no such folder.
fn names_in(folder: &Path) -> Result<Vec<String>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}
