//! `sluice check`.

use crate::admin::api::chain;
use crate::cli::args::{self, ConfigArgs, Output, OutputArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{self, Column};
use crate::config::model::{AttachMode, Config, Interface, Listener, ProbeTarget, Service};
use crate::kernel::features::{self, Finding, Status};
use crate::privileges;
use crate::sockets::redirect;
use crate::sockets::steer::routes::{self, Missing};
use crate::sockets::{self, connect};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Find out what this host can do, and what to do where it cannot
///
/// Looks at the kernel, capabilities, limits, the BPF file system, and at the interfaces of the
/// configuration or of the command line. A program that passes everything is attached to those
/// for a moment; some drivers reset their queues then.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice check
  sluice check -c sluice.yaml
  sluice check --interface eth0 --interface eth1

Exit code 77: something needed is missing.")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Interface to look at, besides those of the configuration
    #[arg(short, long, value_name = "NAME")]
    interface: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let findings = findings(self.configuration()?, &self.interface);
        match self.output.output {
            Output::Json => output::json(&json(&findings))?,
            Output::Yaml => output::yaml(&json(&findings))?,
            Output::Table => output::print(&text(&findings))?,
        }
        let failed = findings
            .iter()
            .any(|finding| finding.status == Status::Fail);
        Ok(if failed { Exit::Host } else { Exit::Done })
    }

    /// The configuration to check against: the given one, else the defaults.
    fn configuration(&self) -> Result<Config, Failure> {
        if self.config.is_given() {
            return args::load(&self.config.path()?);
        }
        Ok(Config::default())
    }
}

/// What this host can do of what a configuration asks for. Attaches something for a moment to its
/// interfaces, and to these.
pub(super) fn findings(config: Config, interfaces: &[String]) -> Vec<Finding> {
    let routes = routes::missing(&config);
    let cgroups = at_connect(&config);
    let redirection = config.redirects().then(|| redirection(&config));
    let Config {
        l4,
        listeners,
        services,
        ..
    } = config;
    let mut l4 = l4.unwrap_or_default();
    l4.interfaces
        .extend(interfaces.iter().map(|name| Interface {
            name: name.clone(),
            attach: AttachMode::Auto,
        }));
    let mut findings = features::check(&l4, &checked_vips(&listeners, &services));
    findings.push(landlock());
    findings.extend(routes.into_iter().map(unrouted));
    findings.extend(cgroups);
    findings.extend(redirection.into_iter().flatten());
    findings
}

/// A steered prefix that this host does not take.
fn unrouted(missing: Missing) -> Finding {
    Finding {
        name: format!("route to {}", missing.prefix),
        status: Status::Warn,
        detail: missing.to_string(),
        remedy: missing.remedy(),
    }
}

/// Whether this host's workloads can be balanced at connect(), if they are to be.
fn at_connect(config: &Config) -> Vec<Finding> {
    if !config.balances_sockets() {
        return Vec::new();
    }
    let name = "balancing at connect()".to_owned();
    let root = match sockets::cgroup_root() {
        Ok(root) => root,
        Err(error) => {
            return vec![Finding {
                name,
                status: Status::Warn,
                detail: error.to_string(),
                remedy: "mount a cgroup2 file system; until then VIPs are dialled over the network"
                    .to_owned(),
            }];
        }
    };
    let mut findings = vec![Finding {
        name,
        status: Status::Ok,
        detail: format!("cgroups of version 2 in {}", root.display()),
        remedy: String::new(),
    }];
    findings.extend(connect::missing(config).into_iter().map(|path| {
        Finding {
            name: format!("cgroup {}", path.display()),
            status: Status::Warn,
            detail: "there is no such cgroup now: its workloads are not balanced at connect()"
                .to_owned(),
            remedy:
                "it is taken up as soon as it is there; `cat /proc/PID/cgroup` shows the right path"
                    .to_owned(),
        }
    }));
    findings
}

/// Whether this host can redirect, and what it does not have yet of what is to be redirected.
fn redirection(config: &Config) -> Vec<Finding> {
    let finding = |status, detail, remedy: &str| Finding {
        name: "redirection (`mesh`)".to_owned(),
        status,
        detail,
        remedy: remedy.to_owned(),
    };
    if let Err(error) = redirect::try_it() {
        let remedy = "it takes Linux 6.10, cgroups of version 2 and the privileges of root";
        return vec![finding(Status::Fail, chain(&error), remedy)];
    }
    let mut findings = vec![finding(Status::Ok, "the programs load".to_owned(), "")];
    for path in redirect::missing(config).unwrap_or_default() {
        let detail = format!("there is no cgroup {path} yet");
        let remedy = "`systemd-cgls` shows those that there are; it is waited for";
        findings.push(finding(Status::Warn, detail, remedy));
    }
    findings
}

/// Whether `process.landlock` has an effect here.
fn landlock() -> Finding {
    let (status, detail) = match privileges::landlock_version() {
        Some(version) => (Status::Ok, format!("version {version}")),
        None => (
            Status::Warn,
            "not in this kernel, or not switched on".to_owned(),
        ),
    };
    let remedy = match status {
        Status::Ok => "",
        _ => "only needed for `process: {landlock: true}`: add `landlock` to the kernel's `lsm=`",
    };
    Finding {
        name: "landlock".to_owned(),
        status,
        detail,
        remedy: remedy.to_owned(),
    }
}

/// The VIPs that health checks target.
fn checked_vips(listeners: &[Listener], services: &[Service]) -> Vec<IpAddr> {
    let through_vip = |listener: &&Listener| {
        services.iter().any(|service| {
            let target = service.health.as_ref().map(|health| health.target);
            service.name == listener.service && target == Some(ProbeTarget::Vip)
        })
    };
    let vips = listeners.iter().filter(through_vip);
    let vips: BTreeSet<IpAddr> = vips.map(|listener| listener.vip.addr()).collect();
    vips.into_iter().collect()
}

pub(super) fn json(findings: &[Finding]) -> serde_json::Value {
    let findings = findings.iter().map(|finding| {
        json!({
            "name": finding.name,
            "status": finding.status.name(),
            "detail": finding.detail,
            "remedy": finding.remedy,
        })
    });
    findings.collect()
}

pub(super) fn text(findings: &[Finding]) -> String {
    let headings = [
        Column::Words("STATUS"),
        Column::Words("WHAT"),
        Column::Words("FOUND"),
    ];
    let rows = findings.iter().map(|finding| {
        let status = finding.status.name().to_owned();
        vec![status, finding.name.clone(), finding.detail.clone()]
    });
    let mut text = output::columns(&headings, rows);
    let remedies = findings.iter().filter(|finding| !finding.remedy.is_empty());
    for (i, finding) in remedies.enumerate() {
        if i == 0 {
            text.push('\n');
        }
        text.push_str(&format!("{}: {}\n", finding.name, finding.remedy));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_follow_the_table() {
        let finding = Finding {
            name: "bpffs".to_owned(),
            status: Status::Warn,
            detail: "not mounted".to_owned(),
            remedy: "mount -t bpf bpf /sys/fs/bpf".to_owned(),
        };
        let text = text(&[finding]);
        assert!(text.contains("not mounted"), "{text}");
        assert!(
            text.ends_with("\nbpffs: mount -t bpf bpf /sys/fs/bpf\n"),
            "{text}"
        );
    }
}
