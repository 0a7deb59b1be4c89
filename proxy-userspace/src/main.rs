//! The binary `sluice`.

use std::process::ExitCode;

/// Buffers and tasks come and go with connections on many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    proxy_userspace::cli::main(std::env::args_os())
}
