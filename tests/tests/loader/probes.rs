//! Probes to VIPs: aimed at their backends while that is wanted.

use super::*;
use anyhow::bail;
use aya::programs::{SchedClassifier, TcAttachType};
use proxy_common::maps::program;
use proxy_userspace::kernel::aim::{self, AimError};

/// Programs on what leaves an interface: id and name.
fn on_egress(interface: &str) -> Result<Vec<(u32, String)>> {
    let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Egress)?;
    let named = programs.iter().map(|found| {
        let name = found.name_as_str().unwrap_or_default().to_owned();
        (found.id(), name)
    });
    Ok(named.collect())
}

/// How many rules and routes of probes there are, in both families.
fn routes_of_probes() -> Result<(usize, usize)> {
    let table = aim::TABLE.to_string();
    let count = |arguments: &[&str], wanted: &str| -> Result<usize> {
        let output = Command::new("ip").args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().filter(|line| line.contains(wanted)).count())
    };
    let mut found = (0, 0);
    for family in ["-4", "-6"] {
        found.0 += count(&[family, "rule", "show"], &table)?;
        found.1 += count(&[family, "route", "show", "table", &table], "dev lo")?;
    }
    Ok(found)
}

#[test]
fn probes_are_aimed_while_it_is_wanted_and_nothing_is_left_behind() {
    in_netns("aim", |place| {
        let interfaces = [on("lb0", AttachMode::Auto)];
        ip("link set lo up")?;
        let mut plane = running(place)?;
        ensure!(on_egress("lo")?.is_empty() && routes_of_probes()? == (0, 0));
        plane.aim_probes(Some(&interfaces))?;
        let first = on_egress("lo")?;
        ensure!(
            first.len() == 1 && first[0].1 == program::PROBE,
            "{first:?}"
        );
        ensure!(on_egress("lb0")? == first);
        ensure!(routes_of_probes()? == (2, 2));
        ensure!(Pins::new(&place.0).program(program::PROBE).exists());

        // Again, and after somebody removed what is not theirs.
        plane.aim_probes(Some(&interfaces))?;
        ip(&format!("rule del pref {}", aim::RULE_PRIORITY))?;
        ip(&format!("-6 route flush table {}", aim::TABLE))?;
        ensure!(routes_of_probes()? == (1, 1));
        std::fs::remove_file(Pins::new(&place.0).probe_link("lo"))?;
        // A worker of the kernel frees a link whose last pin has gone.
        wait::until("the link has gone", || Ok(on_egress("lo")?.is_empty()))?;
        plane.aim_probes(Some(&interfaces))?;
        ensure!(routes_of_probes()? == (2, 2));
        ensure!(on_egress("lo")? == first && on_egress("lb0")? == first);

        // A restart leaves it alone; the next process puts its own program behind the links.
        plane.detach_all(true)?;
        ensure!(on_egress("lo")? == first && routes_of_probes()? == (2, 2));
        let (mut plane, _) = place.open()?;
        plane.attach(&interfaces)?;
        plane.aim_probes(Some(&interfaces))?;
        let second = on_egress("lo")?;
        ensure!(second.len() == 1 && second[0].0 != first[0].0, "{second:?}");
        ensure!(on_egress("lb0")? == second);

        let others = [on("lb1", AttachMode::Auto)];
        plane.attach(&others)?;
        plane.aim_probes(Some(&others))?;
        ensure!(on_egress("lb0")?.is_empty() && on_egress("lb1")? == second);

        plane.aim_probes(None)?;
        ensure!(on_egress("lo")?.is_empty() && on_egress("lb1")?.is_empty());
        ensure!(routes_of_probes()? == (0, 0));
        ensure!(xdp_on("lb1")?.is_some(), "balancing goes on");

        plane.aim_probes(Some(&others))?;
        drop(plane);
        attach::remove(&place.0)?;
        ensure!(on_egress("lo")?.is_empty() && routes_of_probes()? == (0, 0));
        ensure!(!place.0.join("probes").exists());
        Ok(())
    });
}

#[test]
fn what_a_probe_needs_and_lacks_is_said() {
    in_netns("nolo", |place| {
        let mut plane = running(place)?;
        ip("link set lo down")?;
        let interfaces = [on("lb0", AttachMode::Auto)];
        match plane.aim_probes(Some(&interfaces)) {
            Err(error @ AimError::Route(_)) => {
                let text = error.to_string();
                ensure!(text.contains("`lo` that is up"), "{text}");
            }
            other => bail!("{other:?}"),
        }
        ip("link set lo up")?;
        plane.aim_probes(Some(&interfaces))?;
        match plane.aim_probes(Some(&[on("nosuch", AttachMode::Auto)])) {
            Err(AimError::NoInterface(name)) => ensure!(name == "nosuch"),
            other => bail!("{other:?}"),
        }
        Ok(())
    });
}
