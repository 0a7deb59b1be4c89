//! Sources that a proxy's listener condemns, whose packets then die at the driver.
//!
//! The balancer's host serves the VIP itself: an HTTP listener, and before it an l4 listener of mode
//! `local`, through which the driver's guard sees the packets.

use anyhow::{Context, Result, ensure};
use proxy_common::reason::Reason;
use proxy_tests::client::Client;
use proxy_tests::path::Path;
use proxy_tests::stage::{Stage, StageSpec};
use proxy_tests::topology::{client_v4, client_v6};
use proxy_tests::wait;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Port of the HTTP listener.
const PORT: u16 = 8000;

/// How long a client waits for an answer that must not come.
const IMPATIENCE: Duration = Duration::from_millis(250);

/// Number of the address from which the abuser comes, and of another client's.
const ABUSER: u8 = 2;
const OTHER: u8 = 3;

fn source(path: Path, index: u8) -> IpAddr {
    if path.client_is_v6() {
        client_v6(index).into()
    } else {
        client_v4(index).into()
    }
}

/// A stage with the two listeners. All of the client's IPv6 addresses are in one /64, so they are
/// told apart by their whole length.
fn stage(path: Path, condemn: Value) -> StageSpec {
    Stage::new(path).config(move |config| {
        let vip = config["listeners"][0]["address"].clone();
        let listeners = config["listeners"].as_array_mut();
        listeners.expect("a list").extend([
            json!({ "name": "driver", "kind": "l4", "address": vip, "port": PORT, "service": "web" }),
            json!({ "name": "edge", "kind": "http", "address": vip, "port": PORT }),
        ]);
        config["routes"] = json!([{ "name": "hello", "respond": { "status": 200, "body": "hello" } }]);
        let mut section = json!({
            "offences": { "malformed": 3 },
            "exempt": [],
            "ipv6_prefix": 128,
        });
        for (key, value) in condemn.as_object().into_iter().flatten() {
            section[key] = value.clone();
        }
        config["condemn"] = section;
    })
}

fn edge(stage: &Stage) -> SocketAddr {
    SocketAddr::new(stage.web().ip(), PORT)
}

/// The client with its address number `index`.
fn client(stage: &Stage, index: u8) -> Client {
    stage.client().from(source(stage.path, index))
}

/// Checks that the client gets an answer, with the patience that a busy machine needs.
fn reaches(stage: &Stage, index: u8) -> Result<()> {
    let answer = client(stage, index).get(edge(stage), "/")?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

/// Waits until the client's packets die: a verdict is told of before the driver has it.
fn is_cut_off(stage: &Stage, index: u8) -> Result<()> {
    wait::until("the client is cut off", || {
        let impatient = client(stage, index).timeout(IMPATIENCE);
        Ok(impatient.connect(edge(stage)).is_err())
    })
}

/// Sends a malformed request so many times, after `before`, on a connection each, and hears that it
/// is refused; of the last one perhaps not, for the sender may be cut off by then.
fn offend(stage: &Stage, index: u8, before: &str, times: u32) -> Result<()> {
    for number in 1..=times {
        let connection = client(stage, index).connect(edge(stage))?;
        let mut stream = connection.stream();
        stream.write_all(
            format!("{before}GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n").as_bytes(),
        )?;
        let mut answer = [0; 12];
        if number == times {
            stream.set_read_timeout(Some(IMPATIENCE))?;
            let _ = stream.read(&mut answer);
            break;
        }
        stream.read_exact(&mut answer)?;
        ensure!(&answer == b"HTTP/1.1 400", "{answer:?}");
    }
    Ok(())
}

fn condemned(stage: &Stage) -> Result<Vec<Value>> {
    let daemon = stage.daemon();
    let text = daemon.sluice(&["guard", "list", "--condemned", "-o", "json"])?;
    Ok(serde_json::from_str(&text)?)
}

fn metric(stage: &Stage, sample: &str) -> Result<u64> {
    let page = stage.daemon().admin_get("/metrics")?;
    let line = page.lines().find_map(|line| line.strip_prefix(sample));
    let value = line.with_context(|| format!("no {sample} in\n{page}"))?;
    Ok(value.trim().parse()?)
}

fn judged(stage: &Stage, result: &str) -> Result<u64> {
    let sample = format!("sluice_condemnations_total{{offence=\"malformed\",result=\"{result}\"}}");
    metric(stage, &sample)
}

fn an_abusers_packets_die_at_the_driver_until_it_is_pardoned(path: Path) -> Result<()> {
    let stage = stage(path, json!({})).start()?;
    for index in [0, ABUSER, OTHER] {
        reaches(&stage, index)?;
    }
    let mut open = client(&stage, ABUSER).connect(edge(&stage))?;
    ensure!(open.get("/")?.status == 200);
    let dropped = || stage.daemon().maps()?.reason(Reason::DropDenied);
    ensure!(dropped()? == 0);
    offend(&stage, ABUSER, "", 3)?;
    wait::until("it is condemned", || Ok(!condemned(&stage)?.is_empty()))?;
    let listed = condemned(&stage)?;
    ensure!(listed.len() == 1, "{listed:?}");
    let listed_source = listed[0]["source"].as_str().unwrap_or_default();
    let address = source(path, ABUSER).to_string();
    ensure!(
        listed_source.starts_with(&format!("{address}/")),
        "{listed:?}"
    );
    ensure!(
        listed[0]["offence"] == "malformed" && listed[0]["times"] == 1,
        "{listed:?}"
    );

    is_cut_off(&stage, ABUSER)?;
    let after_syns = dropped()?;
    ensure!(after_syns > 0, "not at the driver");
    // Its open connection dies as well.
    open.set_timeout(IMPATIENCE)?;
    ensure!(open.get("/").is_err(), "its open connection lives on");
    ensure!(dropped()? > after_syns);
    // None of that has come to the proxy.
    ensure!(metric(&stage, "sluice_condemned_connections_total")? == 0);
    for index in [0, OTHER] {
        reaches(&stage, index)?;
    }

    stage.daemon().sluice(&["guard", "remove", &address])?;
    reaches(&stage, ABUSER)?;
    ensure!(condemned(&stage)?.is_empty());
    Ok(())
}
on_paths!(an_abusers_packets_die_at_the_driver_until_it_is_pardoned:
    local_v4 = LOCAL_V4,
    local_v6 = LOCAL_V6,
);

fn a_condemnation_ends_by_itself_and_the_next_one_takes_longer(path: Path) -> Result<()> {
    let stage = stage(path, json!({ "duration": "3s", "max_duration": "1h" })).start()?;
    offend(&stage, ABUSER, "", 3)?;
    wait::until("it is condemned", || Ok(judged(&stage, "condemned")? == 1))?;
    wait::until("its time is over", || Ok(condemned(&stage)?.is_empty()))?;
    reaches(&stage, ABUSER)?;
    offend(&stage, ABUSER, "", 3)?;
    wait::until("it is condemned again", || {
        Ok(judged(&stage, "condemned")? == 2)
    })?;
    let again = condemned(&stage)?;
    if let Some(again) = again.first() {
        ensure!(again["times"] == 2, "{again}");
    }
    wait::until("its time is over", || Ok(condemned(&stage)?.is_empty()))?;
    reaches(&stage, ABUSER)
}
on_paths!(a_condemnation_ends_by_itself_and_the_next_one_takes_longer:
    local_v4 = LOCAL_V4,
    local_v6 = LOCAL_V6,
);

fn a_trusted_proxys_clients_are_never_condemned(path: Path) -> Result<()> {
    let (sender, forwarder) = (source(path, ABUSER), source(path, OTHER));
    let stage = stage(path, json!({}))
        .config(move |config| {
            let edge = &mut config["listeners"][3];
            edge["proxy_protocol_from"] = json!([sender]);
            edge["forwarded"] = json!({ "trusted": [forwarder] });
        })
        .start()?;
    let told = if path.client_is_v6() {
        "PROXY TCP6 2001:db8:9::9 2001:db8::10 1000 8000\r\n"
    } else {
        "PROXY TCP4 198.51.100.9 192.0.2.10 1000 8000\r\n"
    };
    offend(&stage, ABUSER, told, 6)?;
    offend(&stage, OTHER, "", 6)?;
    let exempt = r#"sluice_offences_total{offence="malformed",standing="exempt"}"#;
    wait::until("all offences are counted", || {
        Ok(metric(&stage, exempt)? == 12)
    })?;
    ensure!(condemned(&stage)?.is_empty());
    reaches(&stage, OTHER)?;
    // At the same listener, whoever is nobody's proxy is condemned.
    offend(&stage, 4, "", 3)?;
    wait::until("the abuser is condemned", || {
        Ok(judged(&stage, "condemned")? == 1)
    })?;
    is_cut_off(&stage, 4)?;
    reaches(&stage, OTHER)
}
on_paths!(a_trusted_proxys_clients_are_never_condemned:
    local_v4 = LOCAL_V4,
    local_v6 = LOCAL_V6,
);

fn a_dry_run_writes_nothing(path: Path) -> Result<()> {
    let stage = stage(path, json!({ "dry_run": true })).start()?;
    offend(&stage, ABUSER, "", 3)?;
    wait::until("it is judged", || Ok(judged(&stage, "dry_run")? == 1))?;
    ensure!(condemned(&stage)?.is_empty());
    reaches(&stage, ABUSER)?;
    ensure!(stage.daemon().maps()?.reason(Reason::DropDenied)? == 0);
    Ok(())
}
on_paths!(a_dry_run_writes_nothing:
    local_v4 = LOCAL_V4,
    local_v6 = LOCAL_V6,
);

fn a_listeners_own_allow_list_does_not_let_a_condemned_source_in(path: Path) -> Result<()> {
    let stage = stage(path, json!({}))
        .config(|config| {
            config["listeners"][2]["guard"] = json!({ "allow": ["10.1.0.0/24", "fd01::/64"] });
        })
        .start()?;
    reaches(&stage, ABUSER)?;
    offend(&stage, ABUSER, "", 3)?;
    wait::until("it is condemned", || Ok(judged(&stage, "condemned")? == 1))?;
    is_cut_off(&stage, ABUSER)?;
    ensure!(stage.daemon().maps()?.reason(Reason::DropDenied)? > 0);
    ensure!(metric(&stage, "sluice_condemned_connections_total")? == 0);
    reaches(&stage, OTHER)
}
on_paths!(a_listeners_own_allow_list_does_not_let_a_condemned_source_in:
    local_v4 = LOCAL_V4,
    local_v6 = LOCAL_V6,
);

fn condemnations_survive_upgrade_and_reload(path: Path) -> Result<()> {
    let mut stage = stage(path, json!({})).start()?;
    offend(&stage, ABUSER, "", 3)?;
    wait::until("it is condemned", || Ok(judged(&stage, "condemned")? == 1))?;
    stage.daemon().sluice(&["upgrade"])?;
    ensure!(condemned(&stage)?.len() == 1);
    is_cut_off(&stage, ABUSER)?;
    stage.daemon().reload(&stage.config.clone())?;
    ensure!(condemned(&stage)?.len() == 1);
    is_cut_off(&stage, ABUSER)?;
    reaches(&stage, OTHER)?;
    // Without the section nobody is condemned any more.
    stage
        .config
        .as_object_mut()
        .expect("a map")
        .remove("condemn");
    let config = stage.config.clone();
    stage.daemon().reload(&config)?;
    ensure!(condemned(&stage)?.is_empty());
    reaches(&stage, ABUSER)
}
on_paths!(condemnations_survive_upgrade_and_reload:
    local_v4 = LOCAL_V4,
    local_v6 = LOCAL_V6,
);
