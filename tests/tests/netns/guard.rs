//! The guard, as a client feels it.

use anyhow::{Result, ensure};
use proxy_common::reason::Reason;
use proxy_tests::client::Client;
use proxy_tests::config::WEB;
use proxy_tests::path::Path;
use proxy_tests::stage::Stage;
use proxy_tests::topology::{client_v4, client_v6};
use proxy_tests::wait::{self, PATIENCE};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How long a client waits for an answer that must not come.
const IMPATIENCE: Duration = Duration::from_millis(250);

/// The client with its address number `index` and little patience.
fn client(stage: &Stage, index: u8) -> Client {
    stage
        .client()
        .from(source(stage.path, index))
        .timeout(IMPATIENCE)
}

fn source(path: Path, index: u8) -> IpAddr {
    if path.client_is_v6() {
        client_v6(index).into()
    } else {
        client_v4(index).into()
    }
}

/// Checks that the client gets an answer, with the patience that a busy machine needs.
fn reaches(stage: &Stage, index: u8) -> Result<()> {
    let patient = stage.client().from(source(stage.path, index));
    patient.get(stage.web(), "/name").map(drop)
}

fn a_denied_source_is_dropped_and_others_are_not(path: Path) -> Result<()> {
    let denied = source(path, 2);
    let stage = Stage::new(path)
        .config(move |config| config["listeners"][WEB]["guard"] = json!({ "deny": [denied] }))
        .start()?;
    reaches(&stage, 0)?;
    ensure!(client(&stage, 2).connect(stage.web()).is_err());
    // The rule is the listener's own.
    stage.client().from(denied).udp_echo(stage.echo(), b"hi")?;
    reaches(&stage, 3)?;
    ensure!(stage.daemon().maps()?.reason(Reason::DropDenied)? > 0);
    Ok(())
}
on_paths!(a_denied_source_is_dropped_and_others_are_not:
    nat_v4 = NAT_V4,
    nat_v6 = NAT_V6,
    local_v4 = LOCAL_V4,
);

/// Lines of the daemon's log that the kernel programs have told.
fn told(stage: &Stage, wanted: &[&str]) -> usize {
    let log = stage.daemon().log();
    let lines = log.lines().filter(|line| line.contains("kernel programs"));
    let lines = lines.filter(|line| wanted.iter().all(|word| line.contains(word)));
    lines.count()
}

fn the_kernel_programs_tell_the_log_what_they_drop(path: Path) -> Result<()> {
    for (level, tells_all) in [("drops", false), ("all", true)] {
        let denied = source(path, 2);
        let stage = Stage::new(path)
            .config(move |config| {
                config["l4"]["kernel_log"] = json!(level);
                config["listeners"][WEB]["guard"] = json!({ "deny": [denied] });
            })
            .start()?;
        reaches(&stage, 0)?;
        ensure!(client(&stage, 2).connect(stage.web()).is_err());
        let source = SocketAddr::new(denied, 0).to_string();
        let source = format!("tcp {}", source.trim_end_matches('0'));
        let target = format!("> {}", stage.web());
        wait::until("the drop is told of", || {
            let dropped = ["dropped by", "reason=\"denied\"", &source, &target];
            Ok(told(&stage, &dropped) > 0)
        })?;
        // Told in order: what the client that was served has sent came before.
        let served = told(&stage, &["decided by", &target]);
        ensure!((served > 0) == tells_all, "{level}: {served}");
    }
    Ok(())
}
on_paths!(the_kernel_programs_tell_the_log_what_they_drop: nat_v4 = NAT_V4, dsr_ipip_v6 = DSR_IPIP_V6);

fn only_sources_on_an_allow_list_pass(path: Path) -> Result<()> {
    let allowed = source(path, 1);
    let stage = Stage::new(path)
        .config(move |config| config["listeners"][WEB]["guard"] = json!({ "allow": [allowed] }))
        .start()?;
    reaches(&stage, 1)?;
    ensure!(client(&stage, 0).connect(stage.web()).is_err());
    ensure!(stage.daemon().maps()?.reason(Reason::DropNotAllowed)? > 0);
    Ok(())
}
on_paths!(only_sources_on_an_allow_list_pass:
    nat_v4 = NAT_V4,
    dsr_ipip_v6 = DSR_IPIP_V6,
);

fn a_listener_rule_comes_before_a_global_one(path: Path) -> Result<()> {
    let (one, two) = (source(path, 1), source(path, 2));
    let stage = Stage::new(path)
        .config(move |config| {
            config["guard"] = json!({ "deny": [one, two] });
            // An allow list would shut out everybody else; a rule for one source does not.
            config["listeners"][WEB]["guard"] = json!({ "allow": ["0.0.0.0/0"], "deny": [two] });
        })
        .start()?;
    reaches(&stage, 0)?;
    reaches(&stage, 1)?;
    ensure!(client(&stage, 2).connect(stage.web()).is_err());
    let impatient = client(&stage, 1);
    ensure!(impatient.udp_echo(stage.echo(), b"hi").is_err());
    Ok(())
}
on_paths!(a_listener_rule_comes_before_a_global_one: nat_v4 = NAT_V4);

fn a_source_cannot_open_flows_faster_than_its_budget(path: Path) -> Result<()> {
    let stage = Stage::new(path)
        .config(|config| {
            let budget = json!({ "per_second": 2, "burst": 5 });
            config["listeners"][WEB]["guard"] = json!({ "budget": budget });
        })
        .start()?;
    let web = stage.web();
    // Gives up before a SYN would be sent again: each attempt is one SYN.
    let greedy = client(&stage, 1).timeout(Duration::from_millis(50));
    let attempts = 20;
    let start = Instant::now();
    let opened: Vec<_> = (0..attempts)
        .filter_map(|_| greedy.connect(web).ok())
        .collect();
    let earned = 2 * start.elapsed().as_secs() + 2;
    let dropped = stage.daemon().maps()?.reason(Reason::DropBudget)?;
    ensure!(dropped > 0 && dropped < attempts, "{dropped} were dropped");
    let admitted = attempts - dropped;
    ensure!(
        (5..=5 + earned).contains(&admitted),
        "{admitted} of {attempts} were admitted, with 5 at once and at most {earned} earned"
    );
    ensure!(opened.len() as u64 <= admitted);
    // The budget is per source, and for new flows only.
    reaches(&stage, 0)?;
    for mut connection in opened {
        connection.set_timeout(PATIENCE)?;
        connection.get("/name")?;
    }
    // Its SYN is sent again until the source has earned another flow.
    reaches(&stage, 1)
}
on_paths!(a_source_cannot_open_flows_faster_than_its_budget:
    nat_v4 = NAT_V4,
    dsr_l2_v6 = DSR_L2_V6,
);

fn an_operator_denies_a_source_for_a_while(path: Path) -> Result<()> {
    let stage = Stage::new(path).start()?;
    let web = stage.web();
    let mut open = client(&stage, 3).timeout(PATIENCE).connect(web)?;
    open.get("/name")?;
    open.set_timeout(IMPATIENCE)?;
    let denied = source(path, 3).to_string();
    // Long enough for what follows on a busy machine.
    let rule = ["guard", "add", &denied, "--expires", "10s"];
    stage.daemon().sluice(&rule)?;
    ensure!(client(&stage, 3).connect(web).is_err(), "not denied");
    ensure!(open.get("/name").is_err(), "its open connection lives on");
    let listed = stage.daemon().sluice(&["guard", "list"])?;
    ensure!(listed.contains(&denied), "{listed}");
    reaches(&stage, 0)?;
    wait::until("the rule has expired", || {
        Ok(client(&stage, 3).connect(web).is_ok())
    })?;

    stage.daemon().sluice(&["guard", "add", &denied])?;
    ensure!(client(&stage, 3).connect(web).is_err(), "not denied");
    stage.daemon().sluice(&["guard", "remove", &denied])?;
    reaches(&stage, 3)
}
on_paths!(an_operator_denies_a_source_for_a_while:
    nat_v4 = NAT_V4,
    dsr_gue_v6 = DSR_GUE_V6,
);
