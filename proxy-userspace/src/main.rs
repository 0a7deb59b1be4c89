//! The binary `sluice`.

use std::process::ExitCode;

fn main() -> ExitCode {
    proxy_userspace::cli::main(std::env::args_os())
}
