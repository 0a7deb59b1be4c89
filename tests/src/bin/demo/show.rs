//! What the audience sees. Colours only on a terminal, and not if `NO_COLOR` is set.

use crate::scene::Outcome;
use proxy_common::service::Mode;
use proxy_tests::client::Shares;
use std::fmt::Display;
use std::io::IsTerminal;
use std::time::Duration;

/// The way to standard output.
#[derive(Debug)]
pub(crate) struct Show {
    colours: bool,
}

/// A backend in the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) weight: u16,
    pub(crate) state: String,
    pub(crate) new_flows: u64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// Requests that the client saw answered by it.
    pub(crate) answered: u64,
}

/// Columns of the longest bar.
const BAR: u64 = 24;

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const CYAN: &str = "36";

impl Show {
    pub(crate) fn for_stdout() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colours: std::io::stdout().is_terminal() && !plain,
        }
    }

    /// Names the hosts.
    pub(crate) fn opening(&self, v6: bool) {
        let (client, vip, backends) = if v6 {
            ("fd01::10", "[2001:db8::10]:80", "fd02::21 to ::23")
        } else {
            ("10.1.0.10", "192.0.2.10:80", "10.2.0.21 to .23")
        };
        self.line("");
        self.line(self.paint(
            BOLD,
            "sluice: real traffic through the kernel, mode by mode",
        ));
        self.line("");
        self.line(format!(
            "  client {client}  ──▶  VIP {vip}  ──▶  balancer, XDP on eth0  ──▶  web-1, web-2, web-3 at {backends}"
        ));
        self.line(self.paint(
            DIM,
            "  Each is a network namespace of this machine; all are gone at the end.",
        ));
    }

    /// Begins a mode.
    pub(crate) fn scene(&self, mode: Mode) {
        let about = match mode {
            Mode::Nat => "address and port are translated; answers come back this way",
            Mode::FullNat => "the source too, so that backends need no route back",
            Mode::DsrL2 => "only MAC addresses change; backends answer clients directly",
            Mode::DsrIpip => "wrapped in IP; backends unwrap and answer clients directly",
            Mode::DsrGue => "wrapped in UDP; backends unwrap and answer clients directly",
            Mode::Local => "served by this host itself: judged, counted, passed",
        };
        self.line("");
        self.line(format!(
            "{}  {}",
            self.paint(BOLD, mode.name()),
            self.paint(DIM, about)
        ));
    }

    /// What is being done.
    pub(crate) fn command(&self, text: &str) {
        self.line(format!("  {}", self.paint(CYAN, format!("$ {text}"))));
    }

    /// A fact.
    pub(crate) fn note(&self, text: &str) {
        self.line(format!("    {text}"));
    }

    /// A promise kept.
    pub(crate) fn good(&self, text: &str) {
        self.line(format!("    {} {text}", self.paint(GREEN, "✓")));
    }

    /// The first lines of something long.
    pub(crate) fn excerpt(&self, text: &str, lines: usize) {
        for line in text.lines().take(lines) {
            self.line(format!("    {}", self.paint(DIM, line)));
        }
        if text.lines().count() > lines {
            self.line(format!("    {}", self.paint(DIM, "…")));
        }
    }

    /// Which backend served how many.
    pub(crate) fn table(&self, rows: &[Row]) {
        let head = format!(
            "    {:<8} {:>6}  {:<8} {:>9} {:>9} {:>10} {:>9}",
            "backend", "weight", "state", "new flows", "packets", "octets", "answered"
        );
        self.line(self.paint(DIM, head));
        let most = rows.iter().map(|row| row.new_flows).max().unwrap_or(0);
        for row in rows {
            let length = (row.new_flows * BAR).checked_div(most).unwrap_or(0);
            let bar = "█".repeat(length as usize);
            self.line(format!(
                "    {:<8} {:>6}  {:<8} {:>9} {:>9} {:>10} {:>9}  {}",
                row.name,
                row.weight,
                row.state,
                row.new_flows,
                row.packets,
                row.bytes,
                row.answered,
                self.paint(GREEN, bar)
            ));
        }
    }

    /// Sums up.
    pub(crate) fn closing(&self, outcomes: &[Outcome], took: Duration) {
        self.line("");
        let head = format!(
            "  {:<9} {:>7} {:>9} {:>12} {:>9} {:>9} {:>7}",
            "mode", "ready", "requests", "per request", "failover", "unbroken", "took"
        );
        self.line(self.paint(DIM, head));
        for outcome in outcomes {
            let each = outcome.requests_took / outcome.requests.max(1) as u32;
            let failover = outcome.failover.map_or("-".to_owned(), seconds);
            let unbroken = match outcome.failover {
                Some(_) => outcome.unbroken.to_string(),
                None => "-".to_owned(),
            };
            self.line(format!(
                "  {:<9} {:>7} {:>9} {:>9} µs {:>9} {:>9} {:>7}",
                outcome.mode.name(),
                seconds(outcome.ready_after),
                outcome.requests,
                each.as_micros(),
                failover,
                unbroken,
                seconds(outcome.took)
            ));
        }
        self.line("");
        self.line(format!(
            "{} {} in {}; no namespace, pin or process is left.",
            self.paint(GREEN, "✓"),
            match outcomes.len() {
                1 => "one mode".to_owned(),
                count => format!("{count} modes"),
            },
            seconds(took)
        ));
    }

    /// A line as it is.
    pub(crate) fn line(&self, text: impl Display) {
        println!("{text}");
    }

    fn paint(&self, colour: &str, text: impl Display) -> String {
        if self.colours {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }
}

/// Seconds with one digit, or milliseconds below one.
pub(crate) fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

/// `web-1 30, web-3 60`.
pub(crate) fn shares(shares: &Shares) -> String {
    let parts: Vec<_> = shares
        .iter()
        .map(|(backend, count)| format!("{backend} {count}"))
        .collect();
    parts.join(", ")
}
