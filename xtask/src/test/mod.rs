//! `cargo xtask test`: everything that must hold before a change is merged.
//!
//! A sequence of stages, all of which run even when one fails, so that one run shows everything
//! that is wrong. Cargo compiles the workspace with the same selection of packages and features in
//! every stage, so that no dependency is compiled twice.
//!
//! A test that skips itself counts as passed for Rust. Therefore privileged stages run with
//! `SLUICE_REQUIRE_PRIVILEGED=1`, under which the harness panics instead of skipping, and a stage
//! in which no test ran has failed.

mod report;
mod stages;
mod tally;

use crate::host::{self, HostLacks};
use crate::setup::{self, Purpose};
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use clap::Args;
use report::Report;
use stages::{LeftOut, Stage};
use std::process::ExitCode;
use std::time::Instant;

/// Options of the task.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Leave out the stages that need root: for a laptop, never for CI.
    #[arg(long)]
    unprivileged: bool,
    /// Only this stage (and what it needs built). May be given more than once.
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    /// Only tests whose name contains this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Let the stages abuse, upgrade and soak take minutes or longer: more slow clients, reloads for five
    /// minutes, upgrades for a minute, a hundred thousand connections.
    #[arg(long)]
    long: bool,
    /// List the stages and end.
    #[arg(long)]
    list: bool,
}

/// Runs the task.
pub(crate) fn task(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let (stages, mut left_out) = stages::all(workspace)?;
    if options.list {
        for stage in &stages {
            println!("{:<18} {}", stage.name, stage.about());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = choose(&stages, &left_out, &options.only)?;
    let (chosen, unprivileged) = drop_privileged(chosen, options.unprivileged)?;
    if !options.only.is_empty() {
        left_out.clear();
    }
    left_out.extend(unprivileged);
    left_out.extend(chosen.iter().flat_map(|stage| stage.left_out()));
    let how = stages::How {
        filter: options.filter.as_deref(),
        long: options.long,
    };
    let report = run(workspace, &chosen, how);
    report.print(&left_out);
    Ok(if report.failed() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The stages named by `--only`, with the builds that they need.
fn choose<'a>(
    stages: &'a [Stage],
    left_out: &[LeftOut],
    only: &[String],
) -> Result<Vec<&'a Stage>> {
    if let Some(unknown) = only
        .iter()
        .find(|name| stages.iter().all(|s| s.name != **name))
    {
        if let Some(out) = left_out.iter().find(|out| out.what == *unknown) {
            bail!("stage `{unknown}` cannot run: {}", out.why);
        }
        let names: Vec<_> = stages.iter().map(|stage| stage.name.as_str()).collect();
        bail!("no stage `{unknown}`; there are {}", names.join(", "));
    }
    let chosen = |stage: &&Stage| only.is_empty() || only.contains(&stage.name);
    let needs_build = stages.iter().filter(chosen).any(Stage::needs_build);
    Ok(stages
        .iter()
        .filter(|s| chosen(s) || (needs_build && s.is_build()))
        .collect())
}

/// Takes out the privileged stages if the user said so, and fails if the host cannot run them.
fn drop_privileged(stages: Vec<&Stage>, unprivileged: bool) -> Result<(Vec<&Stage>, Vec<LeftOut>)> {
    if !unprivileged {
        if stages.iter().any(|stage| stage.is_privileged()) {
            refuse_without_privileges()?;
        }
        return Ok((stages, Vec::new()));
    }
    let (out, kept): (Vec<_>, Vec<_>) = stages.into_iter().partition(|s| s.is_privileged());
    let left_out = |stage: &&Stage| LeftOut {
        what: stage.name.clone(),
        why: "--unprivileged".to_owned(),
    };
    Ok((kept, out.iter().map(left_out).collect()))
}

fn refuse_without_privileges() -> Result<()> {
    let lacks = host::privileged_lacks();
    if lacks.is_empty() {
        return Ok(());
    }
    let mut message = "packet and namespace tests need what is missing here:".to_owned();
    for lack in lacks {
        message.push_str(&format!("\n  {}\n    remedy: {}", lack.what, lack.remedy));
    }
    message.push_str("\n  or leave these stages out: `cargo xtask test --unprivileged`");
    Err(HostLacks(message).into())
}

fn run(workspace: &Workspace, stages: &[&Stage], how: stages::How<'_>) -> Report {
    let mut report = Report::new();
    let total = stages.len() + 1;
    let traffic = stages.iter().any(|stage| stage.is_privileged());
    let purpose = if traffic {
        Purpose::Test
    } else {
        Purpose::Build
    };
    report::announce(1, total, "setup", "what the tests need is installed");
    let start = Instant::now();
    let ready = setup::ensure(workspace, purpose).map(|()| stages::Outcome::Check);
    let go_on = ready.is_ok();
    report.add("setup", start.elapsed(), ready);
    if !go_on {
        return report; // Every later stage would fail with a worse message.
    }
    for (index, stage) in stages.iter().enumerate() {
        report::announce(index + 2, total, &stage.name, stage.about());
        let start = Instant::now();
        let outcome = stage.run(workspace, how);
        report.add(&stage.name, start.elapsed(), outcome);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(stages: &[&Stage]) -> Vec<String> {
        stages.iter().map(|stage| stage.name.clone()).collect()
    }

    fn some() -> Vec<Stage> {
        stages::plan(&["packets".to_owned(), "netns".to_owned()], &[], |_| false).0
    }

    #[test]
    fn one_stage_brings_the_builds_that_it_needs() {
        let stages = some();
        let chosen = choose(&stages, &[], &["netns".to_owned()]).unwrap();
        assert_eq!(names(&chosen), ["build-ebpf", "build", "netns"]);
        let chosen = choose(&stages, &[], &["tidy".to_owned()]).unwrap();
        assert_eq!(names(&chosen), ["tidy"]);
    }

    #[test]
    fn without_a_choice_every_stage_runs() {
        let stages = some();
        let chosen = choose(&stages, &[], &[]).unwrap();
        assert_eq!(names(&chosen), names(&stages.iter().collect::<Vec<_>>()));
    }

    #[test]
    fn an_unknown_stage_is_answered_with_the_known_ones() {
        let error = choose(&some(), &[], &["netnss".to_owned()])
            .unwrap_err()
            .to_string();
        assert!(error.contains("no stage `netnss`"), "{error}");
        assert!(error.contains("netns"), "{error}");
    }

    #[test]
    fn a_stage_that_cannot_run_says_why() {
        let (stages, left_out) = stages::plan(&["desync".to_owned()], &[], |_| false);
        let error = choose(&stages, &left_out, &["desync".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("is not in"), "{error}");
    }

    #[test]
    fn unprivileged_leaves_out_and_names_what_needs_root() {
        let stages = some();
        let (kept, out) = drop_privileged(stages.iter().collect(), true).unwrap();
        let out: Vec<_> = out.iter().map(|out| out.what.as_str()).collect();
        assert_eq!(out, ["packets", "netns"]);
        assert!(names(&kept).contains(&"unit".to_owned()));
    }
}
