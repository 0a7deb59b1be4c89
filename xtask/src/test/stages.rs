//! The stages, in order: cheap ones first, and each target of the tests' package as its own.

use super::tally::{self, Tally};
use crate::build_ebpf::{self, Objects};
use crate::workspace::{Profile, Workspace};
use crate::{fuzz, package, pypi, shell, tidy};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

/// One stage.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Its name for `--only`.
    pub(crate) name: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Format,
    Tidy,
    BuildEbpf,
    Clippy,
    Build,
    /// Unit tests, documentation tests and the suites that need no privileges, by target.
    Unit(Vec<String>),
    /// Every fuzz target for a few seconds.
    Fuzz,
    /// A target of the tests' package.
    Suite,
    /// The same target once more, over IPv6.
    OverV6(&'static str),
    /// The Debian package, made and looked at.
    Package,
}

/// How stages are run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How<'h> {
    /// Only tests whose name contains this.
    pub(crate) filter: Option<&'h str>,
    /// What may take longer does.
    pub(crate) long: bool,
}

/// What is not run, so that nobody takes it for what has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// A stage, or a test of one.
    pub(crate) what: String,
    /// Why, and what would bring it back.
    pub(crate) why: String,
}

/// What a stage found, if it did not fail.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A check passed.
    Check,
    /// Tests ran.
    Tests(Tally),
}

/// The package whose targets need privileges, one stage each.
const SUITES: &str = "proxy-tests";

/// Targets of that package that come first, in this order: what is simpler to understand when it
/// fails comes before what builds on it.
const ORDER: &[&str] = &[
    "http",
    H2_CONFORMANCE,
    UPGRADE,
    CONFORMANCE,
    ABUSE,
    "packets",
    "loader",
    "netns",
    "demo",
];

/// Targets of that package that need no privileges: what they test runs in user space alone.
const UNPRIVILEGED: [&str; 5] = ["http", H2_CONFORMANCE, CONFORMANCE, ABUSE, DESYNC];

/// The target that says HTTP/2 frame by frame.
const H2_CONFORMANCE: &str = "h2_conformance";

/// The target that runs suites of other projects, which come from PyPI.
const CONFORMANCE: &str = "conformance";

/// The target whose processes take over from each other.
const UPGRADE: &str = "upgrade";

/// The target whose tests take all that there is of something, one after the other.
const ABUSE: &str = "abuse";

/// How long each fuzz target runs here: the seeds, and a little more. `cargo xtask fuzz` runs longer.
const FUZZ_SECONDS: u64 = 5;

/// The targets whose tests mostly wait: for health checks, deadlines and other processes. Each has
/// its own hosts or ports, so twice as many as there are CPUs run at a time.
const WAITING: [&str; 2] = ["netns", "http"];

/// But never more than this: the hosts of one test have up to two dozen neighbours, and all
/// namespaces of a machine share the kernel's neighbour table, which forgets entries from 512 on
/// (`gc_thresh2`).
const WAITING_AT_ONCE: usize = 16;

/// The targets that run over IPv6 as well: what they test listens and connects.
const OVER_V6: [(&str, &str); 2] = [("http", "http_v6"), (H2_CONFORMANCE, "h2_conformance_v6")];

/// The variable that says so, and its value.
const FAMILY: (&str, &str) = ("SLUICE_TEST_FAMILY", "6");

/// What takes long and is about what is within a connection.
const SAME_OVER_BOTH: &str = "a scanner or browser, which finds the same over either family";

/// Tests that do not run over IPv6 as well: of which target, and why.
const NOT_OVER_V6: [(&str, &str, &str); 5] = [
    (
        "http",
        "condemned::",
        "sources that differ: this host has one loopback address of IPv6",
    ),
    (
        "http",
        "proxy_protocol::backends_are_told_of_the_client_and_of_whom_an_earlier_proxy_told",
        "a proxy beside the client: this host has one loopback address of IPv6",
    ),
    ("http", "tls_scans::", SAME_OVER_BOTH),
    ("http", "browser::", SAME_OVER_BOTH),
    ("http", "admin_page::", SAME_OVER_BOTH),
];

/// The targets that replay test vectors of other projects, and what they need of them.
const PEER_VECTORS: [(&str, &str); 3] = [
    (PACKET_VECTORS, "katran.json"),
    (H1_VECTORS, "h1-requests-lists.json"),
    (DESYNC, "../suites/desync.py"),
];
const PACKET_VECTORS: &str = "peer_vectors";
const H1_VECTORS: &str = "h1_vectors";
const DESYNC: &str = "desync";

/// Where they may be: this variable, or that folder beside the workspace.
const PEER_VECTORS_VARIABLE: &str = "SLUICE_PEER_VECTORS";
const PEER_VECTORS_FOLDER: &str = "../shared/peer-vectors";

/// The variable that makes a missing file of theirs a failure.
const PEER_VECTORS_REQUIRED: &str = "SLUICE_REQUIRE_PEER_VECTORS";

/// The stages of this workspace, and those that it cannot have.
pub(crate) fn all(workspace: &Workspace) -> Result<(Vec<Stage>, Vec<LeftOut>)> {
    let (suites, others) = test_targets(workspace)?;
    let vectors = peer_vectors(workspace);
    Ok(plan(&suites, &others, |file| {
        vectors
            .as_ref()
            .is_some_and(|folder| folder.join(file).is_file())
    }))
}

/// The stages for these targets: `suites` need privileges, `others` do not. `has` tells whether a
/// file of the peers' vectors is there.
///
/// Without the data, its replay is no stage at all, rather than one that passes without a test.
pub(crate) fn plan(
    suites: &[String],
    others: &[String],
    has: impl Fn(&str) -> bool,
) -> (Vec<Stage>, Vec<LeftOut>) {
    let stage = |name: &str, kind| Stage {
        name: name.to_owned(),
        kind,
    };
    let mut stages = vec![
        stage("fmt", Kind::Format),
        stage("tidy", Kind::Tidy),
        // Before clippy: user space embeds the object, and would be checked again for it.
        stage("build-ebpf", Kind::BuildEbpf),
        stage("clippy", Kind::Clippy),
        stage("build", Kind::Build),
        stage("unit", Kind::Unit(others.to_vec())),
        stage("fuzz", Kind::Fuzz),
    ];
    let mut suites = suites.to_vec();
    suites.sort_by_key(|name| {
        ORDER
            .iter()
            .position(|known| known == name)
            .unwrap_or(ORDER.len())
    });
    let mut left_out = Vec::new();
    for name in suites {
        let needed = PEER_VECTORS.iter().find(|(target, _)| *target == name);
        if let Some((_, file)) = needed.filter(|(_, file)| !has(file)) {
            left_out.push(LeftOut {
                what: name,
                why: format!("{file} is not in {PEER_VECTORS_FOLDER}; set {PEER_VECTORS_VARIABLE}"),
            });
            continue;
        }
        stages.push(stage(&name, Kind::Suite));
        let over_v6 = OVER_V6.iter().find(|(target, _)| *target == name);
        if let Some((target, name)) = over_v6 {
            stages.push(stage(name, Kind::OverV6(target)));
        }
    }
    stages.push(stage("package", Kind::Package));
    (stages, left_out)
}

impl Stage {
    /// One line about it.
    pub(crate) fn about(&self) -> &'static str {
        match self.kind {
            Kind::Format => "formatting is that of rustfmt",
            Kind::Tidy => "layers, lengths, leftovers, links in the documents",
            Kind::BuildEbpf => "the kernel programs compile",
            Kind::Clippy => "no warnings of rustc and clippy",
            Kind::Build => "user space and every test compile",
            Kind::Unit(_) => "tests that need no privileges, in every crate",
            Kind::Fuzz => "a few seconds of random octets for everything that reads a network",
            Kind::Package => "the Debian package has what it should, and can be installed",
            Kind::OverV6(_) => "the same between addresses of IPv6",
            Kind::Suite => match self.name.as_str() {
                "http" => "the HTTP engine between real clients and origins",
                H2_CONFORMANCE => "HTTP/2 frame by frame, from clients and from origins",
                "packets" => "single packets through the kernel programs (BPF_PROG_TEST_RUN)",
                "loader" => "loading, attaching, pinning and adopting",
                "netns" => "real traffic in network namespaces",
                "demo" => "`cargo xtask demo` keeps its promises and leaves nothing",
                PACKET_VECTORS => "another balancer's packet cases, replayed",
                H1_VECTORS => "shapes of HTTP/1 desync and smuggling, replayed",
                DESYNC => "the same through a running proxy, judged at the origin",
                CONFORMANCE => {
                    "other projects' clients: WebSocket and gRPC through a proxy, fuzz of the admin API, hostile TLS"
                }
                UPGRADE => "new processes take over from old ones, and nothing is lost",
                "soak" => {
                    "many connections past TCP, through pipes and past the proxy, compared octet by octet"
                }
                ABUSE => "slow clients, too many connections, reloads without end",
                _ => "a suite that needs privileges",
            },
        }
    }

    /// True if it needs root.
    pub(crate) fn is_privileged(&self) -> bool {
        matches!(self.kind, Kind::Suite) && !UNPRIVILEGED.contains(&self.name.as_str())
    }

    /// True for the stages that later ones build on.
    pub(crate) fn is_build(&self) -> bool {
        matches!(self.kind, Kind::BuildEbpf | Kind::Build)
    }

    /// True if it runs what [`Self::is_build`] makes.
    pub(crate) fn needs_build(&self) -> bool {
        matches!(
            self.kind,
            Kind::Unit(_) | Kind::Suite | Kind::OverV6(_) | Kind::Package
        )
    }

    /// Its tests that it does not run.
    pub(crate) fn left_out(&self) -> Vec<LeftOut> {
        let Kind::OverV6(target) = self.kind else {
            return Vec::new();
        };
        let left_out = |(test, why): (&str, &str)| LeftOut {
            what: format!("{test} in {}", self.name),
            why: why.to_owned(),
        };
        not_over_v6(target).map(left_out).collect()
    }

    /// Runs it.
    ///
    /// # Errors
    ///
    /// If a check fails or tests could not be run; tests that failed are in the outcome.
    pub(crate) fn run(&self, workspace: &Workspace, how: How<'_>) -> Result<Outcome> {
        match &self.kind {
            Kind::Format => format(workspace),
            Kind::Tidy => tidy::check(workspace),
            Kind::BuildEbpf => build_ebpf::build(workspace, Objects::All).map(|_| ()),
            Kind::Clippy => clippy(workspace),
            Kind::Build => build(workspace),
            Kind::Fuzz => fuzz::run(workspace, &[], FUZZ_SECONDS, &[]),
            Kind::Package => package::made(workspace, Profile::Dev).map(drop),
            Kind::Unit(targets) => return unit(workspace, targets, how.filter),
            Kind::Suite => return suite(workspace, &self.name, false, how),
            Kind::OverV6(target) => return suite(workspace, target, true, how),
        }?;
        Ok(Outcome::Check)
    }
}

/// Tests of a target that do not run over IPv6 as well, and why.
fn not_over_v6(target: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let of_target = NOT_OVER_V6.iter().filter(move |(of, ..)| *of == target);
    of_target.map(|(_, test, why)| (*test, *why))
}

fn format(workspace: &Workspace) -> Result<()> {
    let remedy = "`cargo fmt`, in proxy-ebpf/ and fuzz/ as well";
    shell::run(
        shell::cargo(workspace.root()).args(["fmt", "--all", "--check"]),
        remedy,
    )?;
    let mut kernel = shell::cargo(&workspace.ebpf_crate());
    shell::run(kernel.args(["fmt", "--check"]), remedy)?;
    let mut fuzz = shell::cargo(&workspace.fuzz_crate());
    shell::run(fuzz.args(["fmt", "--check"]), remedy)
}

fn clippy(workspace: &Workspace) -> Result<()> {
    let mut cargo = shell::cargo(workspace.root());
    cargo.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    let user = shell::run(&mut cargo, "mend what clippy names");
    let kernel = build_ebpf::clippy(workspace);
    let mut cargo = shell::cargo(&workspace.fuzz_crate());
    cargo.args(["clippy", "--lib", "--bins", "--target-dir"]);
    cargo.arg(workspace.fuzz_target());
    cargo.args(["--", "-D", "warnings"]);
    let fuzz = shell::run(&mut cargo, "mend what clippy names in fuzz/");
    user.and(kernel.map(|_| ())).and(fuzz)
}

/// Builds the binaries that suites start and every test, in one go: on its own, a build of the
/// binaries would leave out the features that tests add and compile dozens of crates twice.
fn build(workspace: &Workspace) -> Result<()> {
    let mut cargo = shell::cargo(workspace.root());
    cargo.args(["build", "--workspace", "--bins", "--tests", "--examples"]);
    shell::run(&mut cargo, "mend what the compiler names")
}

fn unit(workspace: &Workspace, targets: &[String], filter: Option<&str>) -> Result<Outcome> {
    let mut cargo = test_command(workspace);
    cargo.args(["--lib", "--bins", "--examples"]);
    for target in targets {
        cargo.args(["--test", target]);
    }
    let mut tally = tests(&mut cargo, filter, &[])?;
    let mut documentation = test_command(workspace);
    documentation.arg("--doc");
    tally.add(tally::run(with_filter(&mut documentation, filter, &[]))?);
    Ok(Outcome::Tests(tally))
}

fn suite(workspace: &Workspace, target: &str, over_v6: bool, how: How<'_>) -> Result<Outcome> {
    let mut cargo = test_command(workspace);
    cargo.args(["--test", target]);
    cargo.env("SLUICE_REQUIRE_PRIVILEGED", "1");
    cargo.env("SLUICE_BIN", workspace.binary(Profile::Dev, "sluice"));
    if target == CONFORMANCE {
        cargo.env("SLUICE_TEST_PYTHON", pypi::ensure_conformance(workspace)?);
    }
    if target == ABUSE && env::var_os("RUST_TEST_THREADS").is_none() {
        cargo.env("RUST_TEST_THREADS", "1");
    }
    if WAITING.contains(&target) && env::var_os("RUST_TEST_THREADS").is_none() {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let tests = (2 * cpus).min(WAITING_AT_ONCE);
        cargo.env("RUST_TEST_THREADS", tests.to_string());
    }
    if let Some(folder) = peer_vectors(workspace) {
        cargo.env(PEER_VECTORS_VARIABLE, folder);
        cargo.env(PEER_VECTORS_REQUIRED, "1");
    }
    if how.long {
        cargo.env("SLUICE_LONG", "1");
    }
    let mut skip = Vec::new();
    if over_v6 {
        cargo.env(FAMILY.0, FAMILY.1);
        skip.extend(not_over_v6(target).flat_map(|(test, _)| ["--skip", test]));
    }
    Ok(Outcome::Tests(tests(&mut cargo, how.filter, &skip)?))
}

/// `cargo test` of the whole workspace: a smaller selection would resolve other features and
/// compile dependencies once more.
fn test_command(workspace: &Workspace) -> Command {
    let mut cargo = shell::cargo(workspace.root());
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    cargo
}

/// Runs tests; fails if there were none, because a suite that does nothing proves nothing.
fn tests(cargo: &mut Command, filter: Option<&str>, more: &[&str]) -> Result<Tally> {
    let tally = tally::run(with_filter(cargo, filter, more))?;
    if tally.passed + tally.failed == 0 && filter.is_none() {
        bail!("no test ran in this stage");
    }
    Ok(tally)
}

fn with_filter<'a>(cargo: &'a mut Command, filter: Option<&str>, more: &[&str]) -> &'a mut Command {
    cargo.arg("--").args(filter).args(more)
}

/// The folder of other projects' test vectors, if it is there.
fn peer_vectors(workspace: &Workspace) -> Option<PathBuf> {
    env::var_os(PEER_VECTORS_VARIABLE)
        .map(PathBuf::from)
        .into_iter()
        .chain([workspace.root().join(PEER_VECTORS_FOLDER)])
        .find_map(|folder| fs::canonicalize(folder).ok())
}

/// The integration tests of the tests' package, and those of all other packages.
fn test_targets(workspace: &Workspace) -> Result<(Vec<String>, Vec<String>)> {
    let mut cargo = shell::cargo(workspace.root());
    cargo.args([
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
        "--offline",
    ]);
    let text = shell::probe(&mut cargo)
        .with_context(|| format!("`{}` failed: is a manifest broken?", shell::display(&cargo)))?;
    split_targets(&text)
}

fn split_targets(metadata: &str) -> Result<(Vec<String>, Vec<String>)> {
    let metadata: Metadata = serde_json::from_str(metadata).context("reading cargo's metadata")?;
    let (suites, others): (Vec<_>, Vec<_>) = metadata
        .packages
        .into_iter()
        .partition(|package| package.name == SUITES);
    let names = |packages: Vec<Package>| {
        let targets = packages.into_iter().flat_map(|package| package.targets);
        targets
            .filter(|target| target.kind == ["test"])
            .map(|target| target.name)
            .collect()
    };
    Ok((names(suites), names(others)))
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(stages: &[Stage]) -> Vec<&str> {
        stages.iter().map(|stage| stage.name.as_str()).collect()
    }

    #[test]
    fn every_suite_has_a_stage_in_a_sensible_order() {
        let suites = ["bad_input", "demo", "netns", "packets", "loader"].map(str::to_owned);
        let (stages, _) = plan(&suites, &[], |_| false);
        assert_eq!(
            names(&stages)[7..],
            ["packets", "loader", "netns", "demo", "bad_input", "package"]
        );
        assert!(stages[7..12].iter().all(Stage::is_privileged));
        assert!(!stages[..7].iter().any(Stage::is_privileged));
    }

    #[test]
    fn what_runs_in_user_space_needs_no_privileges() {
        let (stages, _) = plan(&["http".to_owned()], &[], |_| false);
        assert_eq!(names(&stages)[7..9], ["http", "http_v6"]);
        assert!(!stages[7..9].iter().any(Stage::is_privileged));
    }

    #[test]
    fn a_stage_names_only_its_own_tests_as_left_out() {
        let (stages, _) = plan(&["http".to_owned(), H2_CONFORMANCE.to_owned()], &[], |_| {
            false
        });
        let left_out = |name: &str| {
            let stage = stages.iter().find(|stage| stage.name == name).unwrap();
            stage.left_out()
        };
        assert!(left_out("http").is_empty());
        assert!(left_out("http_v6")[0].what.ends_with(" in http_v6"));
        assert!(left_out("h2_conformance_v6").is_empty());
    }

    #[test]
    fn peer_vectors_run_only_where_the_data_is() {
        let suites = PEER_VECTORS.map(|(target, _)| target.to_owned());
        let (stages, left_out) = plan(&suites, &[], |_| true);
        assert_eq!((stages.len(), left_out.len()), (11, 0));
        // The rest of them stay, and what does not is named.
        let (stages, left_out) = plan(&suites, &[], |file| file != "../suites/desync.py");
        assert_eq!(stages.len(), 10);
        assert_eq!(left_out[0].what, "desync");
        assert!(left_out[0].why.contains("desync.py is not in"));
    }

    /// A test that has another name is not left out, and one that is left out in vain is nobody's.
    #[test]
    fn what_is_left_out_over_ipv6_exists() {
        let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/tests");
        for (target, test, _) in NOT_OVER_V6 {
            assert!(OVER_V6.iter().any(|(of, _)| *of == target), "{target}");
            let (module, name) = test.split_once("::").unwrap();
            let source = fs::read_to_string(format!("{tests}/{target}/{module}.rs")).unwrap();
            assert!(source.contains(&format!("fn {name}")), "{test}");
        }
    }

    #[test]
    fn targets_are_told_apart_by_package() {
        let metadata = r#"{"packages": [
            {"name": "proxy-tests", "targets": [
                {"name": "proxy_tests", "kind": ["lib"]},
                {"name": "netns", "kind": ["test"]}]},
            {"name": "proxy-userspace", "targets": [
                {"name": "sluice", "kind": ["bin"]},
                {"name": "config", "kind": ["test"]}]}]}"#;
        let (suites, others) = split_targets(metadata).unwrap();
        assert_eq!(suites, ["netns"]);
        assert_eq!(others, ["config"]);
    }
}
