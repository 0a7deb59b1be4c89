//! `sluice capture`.

use crate::admin::api::CaptureQuery;
use crate::admin::client::Chunks;
use crate::cli::args::{self, SocketArgs};
use crate::cli::exit::{Exit, Failure};
use crate::observe::view::View;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

/// Write what the balancer saw and did to a pcapng file
///
/// Packets that XDP sends back are invisible to tcpdump. This captures inside the balancer: each
/// packet as it arrived and as it left, with its verdict as a comment. Open the file with
/// Wireshark or tshark.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice capture -w web.pcapng --count 200 service web
  sluice capture -w - --duration 10s reason denied | tshark -r -
  sluice capture -w one.pcapng host 192.0.2.7 and port 443

The reasons are listed by `sluice status --reasons`.

Ctrl-C ends the capture; the file is complete at any time. The exit code is 3 if packets came
faster than they could be written.")]
pub(super) struct Args {
    /// File to write, - for standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Only packets that arrived on this interface
    #[arg(short, long, value_name = "NAME")]
    interface: Option<String>,
    /// End after this many packets
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after this time
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    duration: Option<Duration>,
    /// Octets of each packet to keep
    #[arg(short, long, value_name = "OCTETS", value_parser = clap::value_parser!(u32).range(14..))]
    snaplen: Option<u32>,
    /// Which packets: host ADDRESS, port NUMBER, service NAME, reason NAME; all must hold
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    #[command(flatten)]
    socket: SocketArgs,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let standard_output = self.write.as_os_str() == "-";
        if standard_output && std::io::stdout().is_terminal() {
            let error = "a capture is binary and standard output is a terminal";
            return Err(Failure::new(Exit::Usage, error).hint("Pipe it, or give a file with -w."));
        }
        args::block_on(async {
            let client = self.socket.client();
            let lost_before = client.get::<View>("status").await?.lost.capture;
            let chunks = client.post_stream("capture", &self.query()).await?;
            let octets = if standard_output {
                copy(chunks, tokio::io::stdout()).await?
            } else {
                let file = File::create(&self.write).await;
                copy(
                    chunks,
                    file.map_err(|error| cannot_write(&self.write, error))?,
                )
                .await?
            };
            // The daemon may have ended, and the capture with it.
            let lost_now = client
                .get::<View>("status")
                .await
                .map(|view| view.lost.capture);
            let lost = lost_now.unwrap_or(lost_before).saturating_sub(lost_before);
            eprintln!("{octets} octets written, {lost} records lost");
            Ok(if lost > 0 { Exit::Losses } else { Exit::Done })
        })
    }

    fn query(&self) -> CaptureQuery {
        CaptureQuery {
            snaplen: self.snaplen,
            count: self.count,
            duration_seconds: self.duration.map(|duration| duration.as_secs_f64()),
            interface: self.interface.clone(),
            filter: self.filter.join(" "),
        }
    }
}

fn cannot_write(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("cannot write {}: {error}", path.display()),
    )
}

/// Copies until the stream ends or Ctrl-C. Closing the connection ends the capture.
async fn copy(mut chunks: Chunks, mut out: impl AsyncWrite + Unpin) -> Result<u64, Failure> {
    let failed = |error| Failure::new(Exit::Failed, error);
    let mut octets = 0;
    loop {
        let chunk = tokio::select! {
            chunk = chunks.next() => chunk?,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(chunk) = chunk else {
            return Ok(octets);
        };
        octets += chunk.len() as u64;
        out.write_all(&chunk).await.map_err(failed)?;
        out.flush().await.map_err(failed)?;
    }
}
