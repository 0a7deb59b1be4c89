//! `sluice serve`.

use crate::cli::args::LogArgs;
use crate::cli::endpoint::{self, Endpoint, access_log};
use crate::cli::exit::{Exit, Failure};
use crate::config::model::Config;
use crate::config::model::http::{Action, Coding, Files};
use std::path::PathBuf;

/// Serve the files of a folder over HTTP, without a configuration file
///
/// Files get ETag, Last-Modified, ranges and the right type; a variant beside a file (.br, .zst, .gz) is
/// sent to clients that take it. Names that begin with a dot and whatever lies outside the folder,
/// links included, are never served. Needs no privileges for ports from 1024 on.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice serve .                                 this folder, at port 8080 of every address
  sluice serve ./public --from 127.0.0.1:3000    for this host only
  sluice serve ~/Downloads --listing             with a page for folders that have no index
  sluice serve dist --fallback index.html        a single-page application
  sluice serve dist --dump-config > sluice.yaml  to go on from, with `sluice run -c sluice.yaml`

Signals:
  TERM, INT   accept no more, let requests end; a second one ends at once
  QUIT        as the first TERM, however often it is sent
  USR1        reopen the access log")]
pub(super) struct Args {
    /// The folder
    #[arg(value_name = "DIR")]
    root: PathBuf,
    /// Where clients connect: ADDRESS:PORT, or :PORT or PORT for all addresses of this host
    #[arg(long, value_name = "ADDRESS", default_value = ":8080", value_parser = Endpoint::parse)]
    from: Endpoint,
    /// A file that stands for its folder. May be given more than once; the first that is there counts
    #[arg(long, value_name = "NAME", default_value = "index.html")]
    index: Vec<String>,
    /// Show what is in folders without an index
    #[arg(long)]
    listing: bool,
    /// A file of the folder that is sent, with status 200, where none is found
    #[arg(long, value_name = "NAME")]
    fallback: Option<String>,
    /// Worker threads [default: the CPUs that this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: Option<u32>,
    /// Where requests are logged as JSON, - for standard output [default: nowhere]
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Print the configuration file that does the same, and end
    #[arg(long)]
    dump_config: bool,
    #[command(flatten)]
    log: LogArgs,
}

/// Variants that are looked for beside each file, the smallest first.
const PRECOMPRESSED: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

impl Args {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        endpoint::serve(&self.config()?, self.dump_config, &self.log)
    }

    /// The configuration that the arguments mean.
    fn config(&self) -> Result<Config, Failure> {
        // Now, so that a mistake is told before anything listens, and in the words of who made it.
        let root = self.root.canonicalize();
        let root = root.and_then(|root| root.read_dir().map(|_| root));
        let root = root.map_err(|error| {
            Failure::new(Exit::Failed, format!("{}: {error}", self.root.display()))
        })?;
        let mut files = Files::new(root);
        files.index.clone_from(&self.index);
        files.list = self.listing;
        files.fallback.clone_from(&self.fallback);
        files.precompressed = PRECOMPRESSED.to_vec();
        let log = self.access_log.as_deref().map(access_log);
        endpoint::http(&self.from, self.workers, log.as_ref(), Action::Files(files))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn config(words: &[&str]) -> Config {
        let line = Line::try_parse_from([&["serve"], words].concat()).expect("valid");
        line.args.config().expect("a folder")
    }

    #[test]
    fn a_folder_is_served_by_the_configuration_that_is_dumped() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_str().expect("text");
        let words = [
            path,
            "--from",
            "127.0.0.1:3000",
            "--listing",
            "--index",
            "a",
            "--index",
            "b",
        ];
        let config = config(&words);
        let Action::Files(files) = &config.routes[0].action else {
            panic!("no files: {:?}", config.routes);
        };
        assert_eq!(files.index, ["a", "b"]);
        assert!(files.list && files.root.is_absolute());
        let dumped = crate::config::effective_yaml(&config);
        let read = crate::config::parse("dumped", &dumped);
        let read = read.unwrap_or_else(|errors| panic!("{}", errors.pretty(false)));
        assert_eq!(read.config, config);
    }

    #[test]
    fn what_is_no_folder_is_told_by_its_name() {
        let line = Line::try_parse_from(["serve", "/nowhere"]).expect("valid");
        let failure = line.args.config().expect_err("no such folder");
        let message = failure.message().expect("has one");
        assert!(message.contains("/nowhere: No such file"), "{message}");
    }
}
