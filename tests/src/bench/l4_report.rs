//! What `bench l4` writes into documents: tables and pictures of its rows.

use super::chart::{self, Panel};
use super::report::{Row, markdown, number, panel};
use super::{docs, e2e, l4, machine};
use anyhow::Result;
use std::fmt::Write as _;
use std::path::Path;

/// The rows as a picture, one panel per unit.
///
/// # Errors
///
/// There are none, or the file cannot be written.
pub fn write_svg(rows: &[Row], path: &Path) -> Result<()> {
    chart::write(&panels(rows), path)
}

/// How a run was made, for the reader of its figures.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// Share of the CPUs that other programs used before it.
    pub background: f64,
    /// Of the packet rows.
    pub packets: l4::Effort,
    /// Of the rows end to end.
    pub end_to_end: e2e::Effort,
}

/// Writes tables and pictures of a run of all rows into `docs/benchmarks.md` and README.md.
///
/// # Errors
///
/// A page has not the block that is to be written, or is not writable.
pub fn write_docs(rows: &[Row], circumstances: &Circumstances) -> Result<()> {
    let page = docs::in_workspace("docs/benchmarks.md");
    docs::write(&page, "l4-machine", &machine_block(circumstances))?;
    let packets = markdown(rows, "ns/packet");
    let live = markdown(rows, "packets/s") + &memory(rows);
    let packets = format!("{packets}\n{live}\n![Nanoseconds per packet](l4-packets.svg)\n");
    docs::write(&page, "l4-packets", &packets)?;
    let end_to_end = format!("{}\n![End to end](l4-e2e.svg)\n", end_to_end(rows));
    docs::write(&page, "l4-e2e", &end_to_end)?;
    let (packets, end_to_end): (Vec<Panel>, Vec<Panel>) = panels(rows)
        .into_iter()
        .partition(|panel| panel.unit.contains("packet"));
    chart::write(&packets, &docs::in_workspace("docs/l4-packets.svg"))?;
    chart::write(&end_to_end, &docs::in_workspace("docs/l4-e2e.svg"))?;
    docs::write(&docs::in_workspace("README.md"), "l4", &key_figures(rows))
}

fn panels(rows: &[Row]) -> Vec<Panel> {
    let mut panels = vec![
        panel(rows, "ns/packet", "What a packet costs"),
        panel(rows, "packets/s", "Live frames"),
    ];
    for (kind, what) in KINDS {
        let prefix = format!("e2e_{kind}_");
        let own: Vec<Row> = rows
            .iter()
            .filter(|row| row.id.starts_with(&prefix))
            .cloned()
            .collect();
        panels.push(panel(
            &own,
            "µs/request",
            &format!("CPU of the machine, {what}"),
        ));
        panels.push(panel(&own, "requests/s", &format!("Requests, {what}")));
    }
    panels
}

/// Kinds of load as row ids name them, and in words.
const KINDS: [(&str, &str); 2] = [
    ("conn", "a new connection for each request"),
    ("keepalive", "kept connections"),
];

fn machine_block(run: &Circumstances) -> String {
    format!(
        "{}- {} rounds of {} packets for each packet row; {} rounds of {} s end to end, over {} \
         connections\n",
        machine::circumstances(Some(run.background)),
        run.packets.rounds,
        number(f64::from(run.packets.repeats)),
        run.end_to_end.rounds,
        run.end_to_end.time.as_secs(),
        e2e::CONNECTIONS,
    )
}

fn memory(rows: &[Row]) -> String {
    rows.iter()
        .filter(|row| row.id == "memory_per_million_flows")
        .map(|row| {
            let mib = row.value / f64::from(1 << 20);
            format!("\nState of a million flows: {mib:.0} MiB.\n")
        })
        .collect()
}

/// Both numbers of each contender side by side, and what it adds to the direct connection.
fn end_to_end(rows: &[Row]) -> String {
    let value = |id: &str| rows.iter().find(|row| row.id == id).map(|row| row.value);
    let mut text = String::new();
    for (kind, what) in KINDS {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "With {what}:\n\n| | requests/s | CPU µs/request | more than direct |\n\
             | --- | ---: | ---: | ---: |"
        );
        let direct = value(&format!("e2e_{kind}_direct_cpu")).unwrap_or(0.0);
        for name in [
            "direct",
            "routed",
            "routed_xdp",
            "sluice",
            "nftables",
            "haproxy",
            "nginx",
        ] {
            let id = format!("e2e_{kind}_{name}");
            if let (Some(rate), Some(cpu)) = (value(&id), value(&format!("{id}_cpu"))) {
                let _ = writeln!(
                    text,
                    "| {name} | {} | {cpu:.1} | {:.1} |",
                    number(rate.round()),
                    cpu - direct
                );
            }
        }
        text.push('\n');
    }
    text
}

/// What the README says.
fn key_figures(rows: &[Row]) -> String {
    let ns = |id: &str| {
        rows.iter()
            .find(|row| row.id == id)
            .map_or_else(|| "–".to_owned(), |row| format!("{:.0}", row.value))
    };
    let mut text = format!(
        "| one packet, nanoseconds | known flow | new flow | one of 1 M flows |\n\
         | --- | ---: | ---: | ---: |\n\
         | swap MAC addresses and send back: the least an XDP program can do | {} | | |\n",
        ns("swap")
    );
    for (name, mode) in [
        ("nat", "nat"),
        ("dsr-ipip", "ipip"),
        ("dsr-gue", "gue"),
        ("dsr-l2", "l2"),
    ] {
        let _ = writeln!(
            text,
            "| `{name}`, IPv4 | {} | {} | {} |",
            ns(&format!("{mode}_v4_cached")),
            ns(&format!("{mode}_v4_syn")),
            ns(&format!("{mode}_v4_1m")),
        );
    }
    text + "\n" + &end_to_end(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, value: f64, unit: &'static str) -> Row {
        Row {
            id: id.into(),
            value,
            unit,
            baseline: None,
            ratio: None,
        }
    }

    #[test]
    fn a_balancer_is_compared_with_the_direct_connection() {
        let rows = [
            row("e2e_conn_direct", 20_000.0, "requests/s"),
            row("e2e_conn_direct_cpu", 90.0, "µs/request"),
            row("e2e_conn_sluice", 19_000.0, "requests/s"),
            row("e2e_conn_sluice_cpu", 100.5, "µs/request"),
        ];
        let text = end_to_end(&rows);
        assert!(
            text.contains("| sluice | 19 000 | 100.5 | 10.5 |"),
            "{text}"
        );
        assert!(!text.contains("nginx"), "{text}");
    }
}
