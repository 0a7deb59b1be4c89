//! `demo`: real traffic through every forwarding mode, in network namespaces.
//!
//! For each mode: a client, a balancer and three backends with a real HTTP server; the built
//! `sluice` with a configuration derived from `examples/l4.yaml`; requests, a drain, a death; and
//! what the kernel's maps say about it. Everything is removed at the end, on Ctrl-C too.

mod interrupt;
mod mesh;
mod scene;
mod script;
mod show;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use interrupt::Interrupted;
use proxy_common::service::Mode;
use proxy_tests::{netns, privilege};
use show::Show;
use std::process::ExitCode;
use std::time::Instant;

/// Real traffic through every forwarding mode, in network namespaces of this machine.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Options {
    /// Programs that go through the daemon unchanged, instead of forwarding modes
    #[arg(value_enum)]
    what: Option<What>,
    /// Show only this forwarding mode; may be given several times
    #[arg(long, value_enum, conflicts_with = "what")]
    mode: Vec<ModeName>,
    /// Let clients and backends speak IPv6
    #[arg(long, conflicts_with = "what")]
    ipv6: bool,
    /// New connections with one request each, per mode
    #[arg(long, conflicts_with = "what", default_value_t = 300, value_parser = clap::value_parser!(u64).range(20..))]
    requests: u64,
}

/// What else there is to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Sidecar-less redirection.
    Mesh,
}

/// A forwarding mode on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeName {
    Nat,
    FullNat,
    DsrL2,
    DsrIpip,
    DsrGue,
    Local,
}

impl ModeName {
    fn mode(self) -> Mode {
        match self {
            Self::Nat => Mode::Nat,
            Self::FullNat => Mode::FullNat,
            Self::DsrL2 => Mode::DsrL2,
            Self::DsrIpip => Mode::DsrIpip,
            Self::DsrGue => Mode::DsrGue,
            Self::Local => Mode::Local,
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let show = Show::for_stdout();
    match run(&options, &show) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            show.line("interrupted; everything is removed");
            // 128 + SIGINT, as shells have it.
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, show: &Show) -> Result<()> {
    if let Some(lack) = privilege::missing() {
        bail!("{lack}");
    }
    interrupt::watch()?;
    netns::sweep_stale();
    if options.what == Some(What::Mesh) {
        return mesh::play(show);
    }
    let modes = if options.mode.is_empty() {
        ModeName::value_variants()
    } else {
        &options.mode
    };
    let start = Instant::now();
    show.opening(options.ipv6);
    let mut outcomes = Vec::new();
    for (index, mode) in modes.iter().enumerate() {
        interrupt::check()?;
        let plan = scene::Plan {
            mode: mode.mode(),
            v6: options.ipv6,
            requests: options.requests,
            show_bpftool: index == 0,
        };
        outcomes.push(scene::play(&plan, show)?);
    }
    show.closing(&outcomes, start.elapsed());
    Ok(())
}
