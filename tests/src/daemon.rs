//! The built `sluice` inside a namespace: as daemon, and as the command that talks to it.
//!
//! The binary is `$SLUICE_BIN`, else `target/release/sluice`, else `target/debug/sluice`; build it
//! first (`cargo xtask build`), the tests do not.

use crate::command::run;
use crate::kernel::Maps;
use crate::netns::{Namespace, mount_bpffs, remove_pins, unique_pin_dir};
use crate::turns::Turns;
use crate::wait::{self, PATIENCE};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proxy_userspace::observe::view::{BackendView, View};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How many programs are verified at a time.
static STARTS: Turns = Turns::new();

/// Path of the built `sluice`.
///
/// # Errors
///
/// It is not built.
pub fn sluice() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SLUICE_BIN") {
        return Ok(path.into());
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    for profile in ["release", "debug"] {
        let path = target.join(profile).join("sluice");
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!(
        "no `sluice` in {}: run `cargo xtask build`",
        target.display()
    )
}

/// A running daemon with its files. Dropping it kills it and removes its pins, and prints what it
/// logged: Rust's test runner shows that only when the test fails.
#[derive(Debug)]
pub struct Daemon {
    namespace: Namespace,
    directory: TempDir,
    pin_dir: PathBuf,
    child: Option<Child>,
    args: Vec<String>,
    quiet: bool,
    /// `cgroup.procs` of the cgroup that it is to run in.
    cgroup: Option<PathBuf>,
}

impl Daemon {
    /// Starts `sluice run` in `namespace` and waits until it is ready.
    ///
    /// `config` is completed with an admin socket and, where it has a kernel part, a pin directory
    /// that nobody else uses.
    ///
    /// # Errors
    ///
    /// It does not start, or is not ready in time; the error has its log.
    pub fn start(namespace: &Namespace, config: &Value) -> Result<Self> {
        let mut daemon = Self::prepare(namespace, config, &[])?;
        daemon.run()?;
        Ok(daemon)
    }

    /// A daemon that is not started yet, with further arguments for `sluice run`.
    ///
    /// # Errors
    ///
    /// Its files cannot be written.
    pub fn prepare(namespace: &Namespace, config: &Value, args: &[&str]) -> Result<Self> {
        mount_bpffs()?;
        let daemon = Self {
            namespace: namespace.clone(),
            directory: tempfile::Builder::new().prefix("sluice-t").tempdir()?,
            pin_dir: unique_pin_dir(),
            child: None,
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            quiet: false,
            cgroup: None,
        };
        daemon.write_config(config)?;
        Ok(daemon)
    }

    /// Has the process run in a cgroup, by the path of its folder.
    pub fn set_cgroup(&mut self, folder: &Path) {
        self.cgroup = Some(folder.join("cgroup.procs"));
    }

    /// Does not print the log at the end.
    pub fn set_quiet(&mut self) {
        self.quiet = true;
    }

    /// Replaces the configuration file. The daemon reads it at the next reload or start.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_config(&self, config: &Value) -> Result<()> {
        let mut config = config.clone();
        if let Some(l4) = config.get_mut("l4") {
            l4["pin_dir"] = json!(self.pin_dir);
        }
        if let Some(connect) = config.get_mut("connect") {
            connect["pin_dir"] = json!(self.pin_dir.join("connect"));
        }
        config["admin"]["socket"] = json!(self.socket());
        self.write_config_text(&serde_json::to_string_pretty(&config)?)
    }

    /// Replaces the configuration file by any text.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_config_text(&self, text: &str) -> Result<()> {
        fs::write(self.config_file(), text).context("cannot write the configuration")
    }

    /// Starts the process and waits until it is ready.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn run(&mut self) -> Result<()> {
        // Held until it is ready.
        let _turn = STARTS.take();
        self.spawn()?;
        let deadline = Instant::now() + PATIENCE;
        while !self.is_ready() {
            let ended = self.exited()?;
            if ended.is_some() || Instant::now() > deadline {
                // The error has the log already.
                self.quiet = true;
                let what = ended.map_or("hangs".to_owned(), |status| format!("ended, {status}"));
                bail!(
                    "sluice is not ready, it {what}:\n{}",
                    last_lines(&self.log())
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Starts the process without waiting.
    ///
    /// # Errors
    ///
    /// There is no such program.
    pub fn spawn(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))?;
        let mut command = self.namespace.command(sluice()?);
        if let Some(processes) = &self.cgroup {
            let processes = File::options().write(true).open(processes)?;
            let enter = move || Ok(nix::unistd::write(&processes, b"0").map(drop)?);
            // SAFETY: one system call that neither allocates nor takes a lock.
            unsafe { command.pre_exec(enter) };
        }
        let child = command
            .arg("run")
            .arg("-c")
            .arg(self.config_file())
            .args(&self.args)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C at a terminal is for the one who started it, not for it.
            .process_group(0)
            .spawn()
            .context("cannot start sluice")?;
        self.child = Some(child);
        Ok(())
    }

    /// True if `/readyz` answers 200.
    pub fn is_ready(&self) -> bool {
        self.admin_get("/readyz")
            .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// One GET on the admin socket; the whole answer as text.
    ///
    /// # Errors
    ///
    /// Nobody listens there.
    pub fn admin_get(&self, path: &str) -> Result<String> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Kills the process as `kill -9` does, and waits for its end. The data plane stays.
    ///
    /// # Errors
    ///
    /// It is not running.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// It is not running.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("not running")?;
        Ok(kill(Pid::from_raw(child.id().try_into()?), signal)?)
    }

    /// All processes of it: the one that was started here, and those that have taken over since. One before
    /// the last may still be there, and goes on where that is killed.
    fn processes(&self) -> Vec<Pid> {
        let Some(folder) = self.directory.path().to_str() else {
            return Vec::new();
        };
        let names = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| {
            let words = fs::read_to_string(format!("/proc/{pid}/cmdline"));
            words.is_ok_and(|words| words.contains(folder))
        })
        .map(Pid::from_raw)
        .collect()
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    ///
    /// It is not running or does not end in time.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_for_end()
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Errors
    ///
    /// It was never started, or does not end in time.
    pub fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let mut ended = None;
        wait::until("sluice has ended", || {
            ended = self.exited()?;
            Ok(ended.is_some())
        })
        .with_context(|| self.log())?;
        self.child = None;
        ended.context("it has ended")
    }

    /// The exit status if the process has ended.
    ///
    /// # Errors
    ///
    /// It was never started.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.as_mut().context("not running")?.try_wait()?)
    }

    /// The command `sluice WORDS…` towards this daemon.
    ///
    /// # Errors
    ///
    /// The binary is missing.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.namespace.command(sluice()?);
        command
            .args(words)
            .arg("--socket")
            .arg(self.socket())
            .env("NO_COLOR", "1");
        Ok(command)
    }

    /// Runs `sluice WORDS…` towards this daemon.
    ///
    /// # Errors
    ///
    /// The command fails; the error has its message.
    pub fn sluice(&self, words: &[&str]) -> Result<String> {
        run(&mut self.command(words)?)
    }

    /// Has the daemon read its configuration file again.
    ///
    /// # Errors
    ///
    /// It refuses the file.
    pub fn reload(&self, config: &Value) -> Result<String> {
        self.write_config(config)?;
        self.sluice(&["reload"])
    }

    /// What `sluice status --json` says.
    ///
    /// # Errors
    ///
    /// The command fails, or its output is not a view.
    pub fn status(&self) -> Result<View> {
        let text = self.sluice(&["status", "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("not a view: {text}"))
    }

    /// A backend of a service in [`Self::status`].
    ///
    /// # Errors
    ///
    /// There is no such backend.
    pub fn backend(&self, service: &str, backend: &str) -> Result<BackendView> {
        let view = self.status()?;
        let mut services = view.services.into_iter();
        let service = services.find(|view| view.name == service);
        let mut backends = service.into_iter().flat_map(|view| view.backends);
        backends
            .find(|view| view.name == backend)
            .with_context(|| format!("no backend {backend}"))
    }

    /// Waits until the view is as wanted.
    ///
    /// # Errors
    ///
    /// It is not in time; the error has the last view.
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&View) -> bool) -> Result<()> {
        let mut view = View::default();
        wait::until(what, || {
            view = self.view()?;
            Ok(wanted(&view))
        })
        .with_context(|| {
            let shown = serde_json::to_string_pretty(&view).unwrap_or_default();
            format!("{shown}\n{}", last_lines(&self.log()))
        })
    }

    /// What the admin socket says of the state, without the command: a process for each look would
    /// cost more CPU time than what is looked at.
    fn view(&self) -> Result<View> {
        let answer = self.admin_get("/api/v1/status")?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
        serde_json::from_str(body.unwrap_or_default())
            .with_context(|| format!("not a view: {answer}"))
    }

    /// Waits until a backend of `web` has a state.
    ///
    /// # Errors
    ///
    /// As [`Self::wait_until`].
    pub fn wait_for_state(&self, backend: &str, state: &str) -> Result<()> {
        self.wait_until(&format!("{backend} is {state}"), |view| {
            let web = view.services.iter().find(|service| service.name == "web");
            let mut backends = web.into_iter().flat_map(|service| &service.backends);
            backends.any(|view| view.name == backend && view.state == state)
        })
    }

    /// The maps, read from their pins and not through the daemon.
    ///
    /// # Errors
    ///
    /// Nothing is pinned.
    pub fn maps(&self) -> Result<Maps> {
        Maps::open(&self.pin_dir)
    }

    /// Directory of the pins.
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// The admin socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.directory.path().join("sluice.yaml")
    }

    /// A directory that is removed with the daemon.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Everything that the daemon has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.quiet {
            println!("--- end of sluice's log\n{}---", last_lines(&self.log()));
        }
        // Errors have nobody to go to; the next test process sweeps what stays. Who has taken over
        // from the process that was started here is no child of ours.
        for process in self.processes() {
            let _ = kill(process, Signal::SIGKILL);
        }
        let _ = self.kill();
        let _ = remove_pins(&self.pin_dir);
    }
}

/// The last lines of a log, as many as one may want to read.
fn last_lines(log: &str) -> String {
    const LINES: usize = 100;
    let skipped = log.lines().count().saturating_sub(LINES);
    log.lines()
        .skip(skipped)
        .fold(String::new(), |text, line| text + line + "\n")
}

/// `sluice decap` on a backend.
#[derive(Debug)]
pub struct Decapsulator {
    child: Child,
    log: tempfile::NamedTempFile,
    pin_dir: PathBuf,
    quiet: bool,
}

impl Decapsulator {
    /// Starts it on `device` and waits until its program is attached.
    ///
    /// # Errors
    ///
    /// It ends or does not attach in time.
    pub fn start(namespace: &Namespace, device: &str) -> Result<Self> {
        mount_bpffs()?;
        let log = tempfile::NamedTempFile::new()?;
        let pin_dir = unique_pin_dir();
        let child = namespace
            .command(sluice()?)
            .args(["decap", "--interface", device, "--pin-dir"])
            .arg(&pin_dir)
            .stdin(Stdio::null())
            .stdout(log.reopen()?)
            .stderr(log.reopen()?)
            .process_group(0)
            .spawn()
            .context("cannot start sluice decap")?;
        let mut this = Self {
            child,
            log,
            pin_dir,
            quiet: false,
        };
        wait::until("sluice decap has attached", || {
            let ended = this.child.try_wait()?;
            ensure!(ended.is_none(), "sluice decap has ended: {ended:?}");
            has_xdp(namespace, device)
        })
        .with_context(|| fs::read_to_string(this.log.path()).unwrap_or_default())?;
        Ok(this)
    }
}

impl Decapsulator {
    /// Does not print the log at the end.
    pub fn set_quiet(&mut self) {
        self.quiet = true;
    }
}

impl Drop for Decapsulator {
    fn drop(&mut self) {
        let log = fs::read_to_string(self.log.path()).unwrap_or_default();
        if !log.is_empty() && !self.quiet {
            println!("--- log of sluice decap\n{log}---");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = remove_pins(&self.pin_dir);
    }
}

/// True if an XDP program is attached to `device`.
///
/// # Errors
///
/// There is no such device.
pub fn has_xdp(namespace: &Namespace, device: &str) -> Result<bool> {
    let shown = run(namespace.command("ip").args(["-j", "link", "show", device]))?;
    let links: Value = serde_json::from_str(&shown)?;
    Ok(links[0].get("xdp").is_some())
}
