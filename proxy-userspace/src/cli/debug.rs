//! `sluice debug`: what helps somebody else to find out what is wrong.

use crate::admin::client::{Client, ClientError};
use crate::cli::args::{self, ConfigArgs, SocketArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::{check, format};
use crate::config::model::Config;
use crate::config::{self, REDACTED, redact, to_yaml};
use crate::observe::build::BuildInfo;
use clap::Subcommand;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tar::{Builder, Header};

/// How long the daemon may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gather what helps somebody else to find out what is wrong
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sluice debug bundle")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a tar with version, configuration, state and metrics, without secrets
    ///
    /// Has the build of this command and of the daemon, what `sluice check` finds (no interface is
    /// touched), the configuration in force, status, readiness and metrics, and facts about the host
    /// and the process. Of what the daemon cannot be asked, the bundle says why.
    ///
    /// Values of header fields, cookies and query parameters, and passwords in URLs, are taken out of the
    /// configuration; keys and tokens are in files that it only names. Names, addresses and
    /// paths stay: look at it before you publish it. A file that exists is not overwritten.
    #[command(after_help = "\
Examples:
  sluice debug bundle                        sluice-debug-TIME.tar.gz in this folder
  sluice debug bundle /tmp/web1.tar.gz
  ssh web1 sluice debug bundle - > web1.tar.gz

Add the daemon's log: journalctl -u sluice --since -1h

Exit code 3: written, but the daemon could not be asked everything.")]
    Bundle {
        /// File to write, - for standard output [default: sluice-debug-TIME.tar.gz]
        file: Option<PathBuf>,
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        socket: SocketArgs,
    },
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let Command::Bundle {
            file,
            config,
            socket,
        } = self.command;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let name = name(now);
        let file = file.unwrap_or_else(|| format!("{name}.tar.gz").into());
        let mut out = Out::open(&file)?;
        let bundle = args::block_on(async {
            let mut bundle = Bundle::default();
            bundle.host();
            bundle.daemon(&socket.client()).await;
            if !bundle.has("config.yaml") {
                bundle.file(config.path().ok());
            }
            Ok(bundle)
        })?;
        let octets = bundle.packed(&name, now.as_secs());
        out.write(&octets.map_err(|error| cannot_write(&file, &error))?)?;
        for (what, why) in &bundle.missing {
            eprintln!("not in it: {what}: {why}");
        }
        if out.path.is_some() {
            eprintln!(
                "{} written; look at it before you publish it",
                file.display()
            );
        }
        let whole = bundle.missing.is_empty();
        Ok(if whole { Exit::Done } else { Exit::Losses })
    }
}

/// Name of a bundle that is made now, as a folder.
fn name(now: Duration) -> String {
    let time = format::time(now.as_secs_f64());
    let time: String = time.chars().filter(|c| !matches!(c, '-' | ':')).collect();
    format!("sluice-debug-{time}")
}

/// Where the bundle goes. The file is opened before anything is gathered.
struct Out {
    /// `None` for standard output.
    path: Option<PathBuf>,
    to: Box<dyn io::Write>,
}

impl Out {
    fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            if io::stdout().is_terminal() {
                let error = "a bundle is binary and standard output is a terminal";
                return Err(Failure::new(Exit::Usage, error).hint("Pipe it, or give a file."));
            }
            return Ok(Self {
                path: None,
                to: Box::new(io::stdout()),
            });
        }
        // Never through a link, never over something, and for nobody else's eyes.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| cannot_write(path, &error))?;
        Ok(Self {
            path: Some(path.to_owned()),
            to: Box::new(file),
        })
    }

    fn write(&mut self, octets: &[u8]) -> Result<(), Failure> {
        let written = self.to.write_all(octets).and_then(|()| self.to.flush());
        let name = self.path.as_deref().unwrap_or(Path::new("standard output"));
        written.map_err(|error| cannot_write(name, &error))
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let text = format!("cannot write {}: {error}", path.display());
    let failure = Failure::new(Exit::Failed, text);
    match error.kind() {
        io::ErrorKind::AlreadyExists => failure.hint("Nothing is overwritten: name another file."),
        _ => failure,
    }
}

/// What was gathered.
#[derive(Debug, Default)]
struct Bundle {
    /// Names, what they are, and contents.
    files: Vec<(&'static str, &'static str, String)>,
    /// What could not be had, and why.
    missing: Vec<(&'static str, String)>,
}

impl Bundle {
    fn has(&self, name: &str) -> bool {
        self.files.iter().any(|(known, ..)| *known == name)
    }

    fn add(&mut self, name: &'static str, what: &'static str, text: impl Into<String>) {
        self.files.push((name, what, text.into()));
    }

    fn add_json(&mut self, name: &'static str, what: &'static str, value: &impl serde::Serialize) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.add(name, what, text + "\n"),
            Err(error) => self.missing.push((name, error.to_string())),
        }
    }

    /// What needs no daemon.
    fn host(&mut self) {
        self.add_json(
            "version.json",
            "the build of the command",
            &BuildInfo::current(),
        );
        let findings = check::findings(Config::default(), &[]);
        self.add("check.txt", "what this host can do", check::text(&findings));
        let mut facts = String::new();
        for path in [
            "/proc/version",
            "/etc/os-release",
            "/proc/loadavg",
            "/proc/meminfo",
            "/proc/sys/net/core/somaxconn",
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/sys/kernel/unprivileged_bpf_disabled",
        ] {
            section(&mut facts, path);
        }
        self.add("host.txt", "the host", facts);
    }

    /// What the daemon says of itself.
    async fn daemon(&mut self, client: &Client) {
        let version = ask(client.text("version")).await;
        self.answer("daemon-version.json", "the build of the daemon", version);
        let config = match ask(client.get::<Value>("config?format=json")).await {
            Ok(mut document) => {
                redact(&mut document);
                Ok(to_yaml(&document))
            }
            Err(why) => Err(why),
        };
        self.answer(
            "config.yaml",
            "the configuration in force, with every default",
            config,
        );
        let status = ask(client.get::<Value>("status")).await;
        if let Some(pid) = status
            .as_ref()
            .ok()
            .and_then(|it| it["daemon"]["pid"].as_u64())
        {
            let mut facts = String::new();
            for file in ["status", "limits", "cgroup"] {
                section(&mut facts, &format!("/proc/{pid}/{file}"));
            }
            self.add("process.txt", "the daemon's process", facts);
        }
        let status = status.map(|mut status| {
            without_text(&mut status);
            format!("{status:#}\n")
        });
        self.answer(
            "status.json",
            "what the daemon knows (sluice status --json)",
            status,
        );
        // Not to be ready is an answer, too.
        let ready = async {
            match client.text("/readyz?verbose").await {
                Err(ClientError::Refused(refusal)) => Ok(refusal.message),
                answer => answer,
            }
        };
        let ready = ask(ready).await;
        self.answer("readyz.txt", "whether it is ready, by check", ready);
        let metrics = ask(client.text("/metrics")).await;
        self.answer("metrics.txt", "all metrics", metrics);
    }

    fn answer(&mut self, name: &'static str, what: &'static str, answer: Result<String, String>) {
        match answer {
            Ok(text) => self.add(name, what, text),
            Err(why) => self.missing.push((name, why)),
        }
    }

    /// The configuration as the file has it, where the daemon could not be asked.
    fn file(&mut self, path: Option<PathBuf>) {
        let name = "config-file.yaml";
        let Some(path) = path else {
            self.missing
                .push((name, "there is no configuration file".to_owned()));
            return;
        };
        match config::load(&path) {
            Ok(loaded) => {
                let mut document = config::effective(&loaded.config);
                redact(&mut document);
                let what = "the configuration of the file, with every default";
                self.add(name, what, to_yaml(&document));
            }
            // The faults quote the file.
            Err(errors) => {
                let faults = errors.faults().len();
                let why = format!("{} has {faults} faults", path.display());
                self.missing.push((name, why));
            }
        }
    }

    /// The archive, compressed.
    fn packed(&self, name: &str, time: u64) -> io::Result<Vec<u8>> {
        let contents = self.contents(name);
        let files = self.files.iter().map(|(file, _, text)| (*file, text));
        let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
        for (file, text) in [("README.txt", &contents)].into_iter().chain(files) {
            let mut header = Header::new_ustar();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(time);
            archive.append_data(&mut header, format!("{name}/{file}"), text.as_bytes())?;
        }
        archive.into_inner()?.finish()
    }

    fn contents(&self, name: &str) -> String {
        let mut text = format!("{name}\n\n");
        for (file, what, _) in &self.files {
            let _ = writeln!(text, "{file:<20} {what}");
        }
        let _ = writeln!(text, "\nSecrets are replaced by {REDACTED}.");
        if !self.missing.is_empty() {
            text.push_str("\nWhat could not be had:\n");
        }
        for (what, why) in &self.missing {
            let _ = writeln!(text, "{what:<20} {why}");
        }
        text
    }
}

/// What the daemon answers, or why there is nothing.
async fn ask<T>(answer: impl Future<Output = Result<T, ClientError>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(ClientError::Refused(refusal))) => Err(refusal.message),
        Ok(Err(error)) => Err(crate::admin::api::chain(&error)),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

/// Leaves of a refused reload that it was refused: its message quotes the file.
fn without_text(status: &mut Value) {
    if let Some(error) = status.pointer_mut("/config/last_reload_error")
        && let Some(text) = error.as_str()
    {
        *error = text.lines().next().unwrap_or_default().into();
    }
}

/// A file of the kernel or the system, under its name.
fn section(text: &mut String, path: &str) {
    let content = std::fs::read_to_string(path);
    let content = content.unwrap_or_else(|error| format!("{error}"));
    let _ = writeln!(text, "==> {path}\n{}\n", content.trim_end());
}
