//! The benchmarks. Usually run by `cargo xtask bench`.

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use proxy_tests::bench::{e2e, l4, l4_report, l7, machine, refusals, report, sockets};
use std::path::PathBuf;

/// Benchmarks of sluice.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The kernel's packet path against baselines, and end to end against other balancers.
    L4(L4),
    /// Proxies of HTTP, TCP and files: CPU time, latency and memory, against other proxies.
    L7(Measured),
    /// Connections on one host: what sockets in the kernel save, against other proxies.
    Sockets(L7),
    /// What it costs to refuse a source: by an answer, by a reset, by the driver.
    Refusals(Refusals),
}

#[derive(Args)]
struct Refusals {
    /// Fewer packets, requests and rounds: for a look, not for publication.
    #[arg(long)]
    quick: bool,
    /// Writes the rows as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct L4 {
    /// Fewer packets and rounds: for a look, not for publication.
    #[arg(long)]
    quick: bool,
    /// The fastest of many short runs instead of the median: on a machine that others use as well.
    #[arg(long, conflicts_with = "write_docs")]
    fastest: bool,
    /// Only rows whose id contains this text (and the baselines).
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Writes the rows as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws the rows as a picture.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Writes tables and pictures into docs/benchmarks.md and README.md.
    #[arg(long, conflicts_with = "only")]
    write_docs: bool,
}

#[derive(Args)]
struct L7 {
    /// Fewer and shorter rounds: for a look, not for publication.
    #[arg(long)]
    quick: bool,
    /// Only this scenario; may be given several times.
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Only this peer; may be given several times.
    #[arg(long, value_name = "NAME")]
    peer: Vec<String>,
    /// Writes the rows as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws the rows as a picture.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Writes the table and the picture into docs/benchmarks.md.
    #[arg(long, conflicts_with_all = ["scenario", "peer"])]
    write_docs: bool,
}

#[derive(Args)]
struct Measured {
    #[command(flatten)]
    run: L7,
    /// Measures nothing and shows rows that `--json` wrote; may be given several times, and of a
    /// scenario that several files have, the last one's count.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["scenario", "peer"])]
    from: Vec<PathBuf>,
}

impl L7 {
    const fn effort(&self) -> l7::Effort {
        if self.quick {
            l7::Effort::QUICK
        } else {
            l7::Effort::FULL
        }
    }

    fn choice(&self) -> l7::Choice {
        l7::Choice {
            scenarios: self.scenario.clone(),
            peers: self.peer.clone(),
        }
    }
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::L4(arguments) => l4(&arguments),
        What::L7(arguments) => l7(&arguments),
        What::Sockets(arguments) => sockets(&arguments),
        What::Refusals(arguments) => refusals(&arguments),
    }
}

fn refusals(arguments: &Refusals) -> Result<()> {
    calm()?;
    let effort = if arguments.quick {
        refusals::Effort::QUICK
    } else {
        refusals::Effort::FULL
    };
    let rows = refusals::run(effort, |what| eprintln!("{what}"))?;
    print!("{}", report::table(&rows));
    match &arguments.json {
        Some(path) => report::write_json(&rows, path),
        None => Ok(()),
    }
}

fn l4(arguments: &L4) -> Result<()> {
    let only = arguments.only.as_deref();
    let progress = |what: &str| eprintln!("{what}");
    let background = calm()?;
    let (mut packets, end_to_end) = if arguments.quick {
        (l4::Effort::QUICK, e2e::Effort::QUICK)
    } else {
        (l4::Effort::FULL, e2e::Effort::FULL)
    };
    packets.fastest = arguments.fastest;
    let mut rows = l4::run(packets, only, progress)?;
    rows.extend(e2e::run(end_to_end, only, progress)?);
    print!("{}", report::table(&rows));
    if let Some(path) = &arguments.json {
        report::write_json(&rows, path)?;
    }
    if let Some(path) = &arguments.svg {
        l4_report::write_svg(&rows, path)?;
    }
    if arguments.write_docs {
        let circumstances = l4_report::Circumstances {
            background,
            packets,
            end_to_end,
        };
        l4_report::write_docs(&rows, &circumstances)?;
    }
    Ok(())
}

fn l7(measured: &Measured) -> Result<()> {
    let arguments = &measured.run;
    let effort = arguments.effort();
    let (rows, background) = if measured.from.is_empty() {
        let background = calm()?;
        let choice = arguments.choice();
        let rows = l7::run(effort, &choice, |what| eprintln!("{what}"))?;
        (rows, Some(background))
    } else {
        (l7::report::read_json(&measured.from)?, None)
    };
    print!("{}", l7::report::table(&rows));
    if let Some(path) = &arguments.json {
        report::write_json(&rows, path)?;
    }
    if let Some(path) = &arguments.svg {
        l7::report::write_svg(&rows, path)?;
    }
    if arguments.write_docs {
        l7::report::write_docs(&rows, effort, background)?;
    }
    Ok(())
}

fn sockets(arguments: &L7) -> Result<()> {
    let background = calm()?;
    let effort = arguments.effort();
    let choice = arguments.choice();
    let rows = sockets::run(effort, &choice, |what| eprintln!("{what}"))?;
    print!("{}", sockets::report::table(&rows));
    if let Some(path) = &arguments.json {
        report::write_json(&rows, path)?;
    }
    if let Some(path) = &arguments.svg {
        sockets::report::write_svg(&rows, path)?;
    }
    if arguments.write_docs {
        sockets::report::write_docs(&rows, effort, background)?;
    }
    Ok(())
}

/// How busy the machine is with other things; says so if that is too much.
fn calm() -> Result<f64> {
    /// Share of the CPUs from which on figures suffer.
    const TOO_MUCH: f64 = 0.05;
    let background = machine::background()?;
    if background > TOO_MUCH {
        eprintln!(
            "warning: other programs use {:.0} % of the CPUs: the figures will be off",
            background * 100.0
        );
    }
    Ok(background)
}
