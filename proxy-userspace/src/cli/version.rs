//! `sluice version`.

use crate::cli::args::Output;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::observe::build::{BuildInfo, VERSION_LINE};

/// Print the version and facts about the build
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice version -v
  sluice version -o json | jq -r .revision")]
pub(super) struct Args {
    /// Print every fact, not only the version
    #[arg(short, long)]
    verbose: bool,
    /// How to print the facts
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let info = BuildInfo::current();
        output::show(self.output, &info, |info| {
            let facts = if self.verbose {
                facts(info)
            } else {
                String::new()
            };
            format!("sluice {VERSION_LINE}\n{facts}")
        })
    }
}

fn facts(info: &BuildInfo) -> String {
    let running = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    let running = running.as_deref().map_or("unknown", str::trim);
    let facts = [
        ("commit", info.revision.as_str()),
        ("commit date", info.commit_date.as_str()),
        ("compiler", info.rustc.as_str()),
        ("target", info.target.as_str()),
        ("profile", info.profile.as_str()),
        ("TLS", info.tls.as_str()),
        ("data plane layout", &info.abi_version.to_string()),
        ("running kernel", running),
    ];
    let objects = info.kernel_objects.iter();
    let objects = objects.map(|(name, digest)| (format!("object {name}"), digest.as_str()));
    let facts = facts.map(|(name, value)| (name.to_owned(), value));
    facts
        .into_iter()
        .chain(objects)
        .map(|(name, value)| format!("{:<18} {value}\n", format!("{name}:")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_and_each_kernel_object_have_a_line() {
        let info = BuildInfo::current();
        let text = facts(&info);
        assert!(
            text.contains(&format!("TLS:               {}\n", info.tls)),
            "{text}"
        );
        let digest = &info.kernel_objects["sock"];
        assert!(
            text.contains(&format!("object sock:       {digest}\n")),
            "{text}"
        );
    }
}
