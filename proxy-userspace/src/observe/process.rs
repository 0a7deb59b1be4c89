//! The usual `process_*` numbers, read from `/proc/self` when somebody asks.

use std::fs;

/// Resources that this process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessUsage {
    /// User and system time, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory, in octets.
    pub resident_bytes: u64,
    /// Virtual memory, in octets.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Start, in seconds since the epoch.
    pub start_seconds: f64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Soft limit of file descriptors.
    pub max_fds: u64,
}

impl ProcessUsage {
    /// Reads the numbers of this process; what cannot be read is 0.
    pub fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let (ticks, page) = units();
        let mut usage = parse_stat(&text("/proc/self/stat"), &text("/proc/stat"), ticks, page)
            .unwrap_or_default();
        usage.open_fds = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
        usage.max_fds = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
            .map_or(0, |(soft, _)| soft);
        usage
    }
}

/// Clock ticks per second and octets per page.
fn units() -> (f64, u64) {
    let value = |name, default: i64| nix::unistd::sysconf(name).ok().flatten().unwrap_or(default);
    (
        value(nix::unistd::SysconfVar::CLK_TCK, 100) as f64,
        value(nix::unistd::SysconfVar::PAGE_SIZE, 4096) as u64,
    )
}

/// Parses `/proc/PID/stat` (proc(5)); fields are counted after the command, which may hold spaces
/// and parentheses.
fn parse_stat(stat: &str, system: &str, ticks: f64, page: u64) -> Option<ProcessUsage> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let boot: f64 = system
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0.0);
    Some(ProcessUsage {
        cpu_seconds: (number(14)? + number(15)?) as f64 / ticks,
        threads: number(20)?,
        start_seconds: boot + number(22)? as f64 / ticks,
        virtual_bytes: number(23)?,
        resident_bytes: number(24)? * page,
        ..ProcessUsage::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_does_not_shift_the_fields() {
        let stat =
            "42 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 250 50 7 8 20 0 9 0 12345 1048576 16 0";
        let usage = parse_stat(stat, "cpu 1\nbtime 1000\n", 100.0, 4096).expect("parses");
        assert_eq!(usage.cpu_seconds, 3.0);
        assert_eq!(usage.threads, 9);
        assert_eq!(usage.start_seconds, 1123.45);
        assert_eq!(usage.virtual_bytes, 1_048_576);
        assert_eq!(usage.resident_bytes, 65_536);
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let usage = ProcessUsage::read();
        assert!(usage.resident_bytes > 0 && usage.open_fds > 0 && usage.max_fds > 0);
        assert!(usage.start_seconds > 1.0e9);
    }
}
