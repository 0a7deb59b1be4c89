//! `bench l4`: measures the packet path. Usually run by `cargo xtask bench`.

use anyhow::Result;
use clap::{Parser, Subcommand};
use proxy_tests::bench::l4::{self, Effort};
use proxy_tests::bench::report;
use std::path::PathBuf;

/// Benchmarks of sluice.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Nanoseconds per packet of the kernel's packet path, against baselines.
    L4 {
        /// Fewer packets and rounds: for a look, not for publication.
        #[arg(long)]
        quick: bool,
        /// Only rows whose id contains this text (and the baselines).
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
        /// Writes the rows as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Draws the rows as a picture.
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
}

fn main() -> Result<()> {
    let What::L4 {
        quick,
        only,
        json,
        svg,
    } = Arguments::parse().what;
    let effort = if quick { Effort::QUICK } else { Effort::FULL };
    let rows = l4::run(effort, only.as_deref(), |what| eprintln!("{what}"))?;
    print!("{}", report::table(&rows));
    if let Some(path) = json {
        report::write_json(&rows, &path)?;
    }
    if let Some(path) = svg {
        report::write_svg(&rows, "ns/packet", "What a packet costs", &path)?;
    }
    Ok(())
}
