//! The command line as a whole.

use super::*;

fn exit_of(line: &str) -> clap::error::ErrorKind {
    parse(line.split(' ').map(OsString::from))
        .expect_err("refused")
        .kind()
}

fn accepts(line: &str) {
    if let Err(error) = parse(line.split(' ').map(OsString::from)) {
        panic!("{line}: {error}");
    }
}

#[test]
fn the_definition_is_consistent() {
    command().debug_assert();
}

#[test]
fn every_line_of_the_manual_is_accepted() {
    for line in [
        "sluice reload --socket /tmp/a.sock",
        "sluice reopen --socket /tmp/a.sock",
        "sluice healthcheck --timeout 3s",
        "sluice status --json",
        "sluice status -o yaml",
        "sluice status --wait --wait-duration 10s",
        "sluice top --interval 500ms",
        "sluice upstreams web/b1 --not-up --json",
        "sluice drain web b2 --timeout 30s --wait",
        "sluice undrain web b2",
        "sluice guard list -o json",
        "sluice guard add 203.0.113.0/24 --expires 10m",
        "sluice guard add 2001:db8::1 --allow --listener web",
        "sluice guard remove 203.0.113.0/24",
        "sluice flows --service web --limit 10",
        "sluice connections --listener web --client 192.0.2.0/24",
        "sluice events --past --count 3",
        "sluice config apply new.yaml --dry-run",
        "sluice config apply - --save --if-match abc",
        "sluice config history -o json",
        "sluice config rollback 3",
        "sluice observe --sample 1 --outcome drop --count 3",
        "sluice observe --sample 1/10 --status 5xx,404 --source 192.0.2.0/24 --json",
        "sluice observe --last 20 --follow --route all --path /a --host a.example",
        "sluice capture -w - --interface eth0 --count 10 --duration 5s",
        "sluice debug bundle - -c /tmp/a.yaml",
        "sluice stop --keep-dataplane",
        "sluice completion zsh",
        "sluice man /tmp",
        "sluice version -v -o json",
    ] {
        accepts(line);
    }
}

#[test]
fn nonsense_is_wrong_usage() {
    use clap::error::ErrorKind;
    for (line, kind) in [
        (
            "sluice",
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
        ),
        ("sluice balance", ErrorKind::InvalidSubcommand),
        ("sluice drain web", ErrorKind::MissingRequiredArgument),
        (
            "sluice drain web b2 --timeout 30",
            ErrorKind::ValueValidation,
        ),
        (
            "sluice guard add 203.0.113.7/24",
            ErrorKind::ValueValidation,
        ),
        ("sluice flows --limit 0", ErrorKind::ValueValidation),
        ("sluice observe --sample 0", ErrorKind::ValueValidation),
        (
            "sluice status --wait-duration 5s",
            ErrorKind::MissingRequiredArgument,
        ),
    ] {
        assert_eq!(exit_of(line), kind, "{line}");
    }
}

#[test]
fn every_command_explains_itself() {
    let mut root = command();
    root.build();
    for command in root.get_subcommands() {
        let name = command.get_name();
        assert!(command.get_about().is_some(), "{name} has no description");
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(help.contains("sluice "), "{name} has no example");
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some(),
                "{name} {} has no help",
                argument.get_id()
            );
        }
    }
}

#[test]
fn completions_know_every_command() {
    for shell in [
        clap_complete::Shell::Bash,
        clap_complete::Shell::Zsh,
        clap_complete::Shell::Fish,
    ] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command(), "sluice", &mut script);
        let script = String::from_utf8(script).expect("text");
        for name in ["undrain", "capture", "guard"] {
            assert!(script.contains(name), "{shell}: {name}");
        }
    }
}
