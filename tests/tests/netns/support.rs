//! How a test of these suites is written.

use anyhow::{Result, ensure};
use proxy_tests::client::Shares;
use proxy_tests::path::Path;
use proxy_tests::privilege;

/// Runs a check on one path if the process has the privileges for it.
pub(crate) fn on_path(path: Path, check: fn(Path) -> Result<()>) -> Result<()> {
    if !privilege::granted()? {
        return Ok(());
    }
    check(path)
}

/// Makes a test of a check `fn(Path) -> Result<()>` for each path named, in a module named after
/// the check: `requests_reach_every_backend::dsr_ipip_v6`.
macro_rules! on_paths {
    ($check:ident: $($test:ident = $path:ident),+ $(,)?) => {
        mod $check {
            use proxy_tests::path::Path;
            $(
                #[test]
                fn $test() -> anyhow::Result<()> {
                    crate::support::on_path(Path::$path, super::$check)
                }
            )+
        }
    };
}

/// As [`on_paths`], for every path on which backends serve (all but `local`), and for those named.
macro_rules! on_every_path {
    ($check:ident $(: $($more:ident = $path:ident),+ $(,)?)?) => {
        on_paths!($check:
            nat_v4 = NAT_V4,
            nat_v6 = NAT_V6,
            full_nat_v4 = FULL_NAT_V4,
            full_nat_v6 = FULL_NAT_V6,
            dsr_l2_v4 = DSR_L2_V4,
            dsr_l2_v6 = DSR_L2_V6,
            dsr_ipip_v4 = DSR_IPIP_V4,
            dsr_ipip_v6 = DSR_IPIP_V6,
            dsr_ipip_v4_in_v6 = DSR_IPIP_V4_IN_V6,
            dsr_gue_v4 = DSR_GUE_V4,
            dsr_gue_v6 = DSR_GUE_V6,
            $($($more = $path,)+)?
        );
    };
}

/// Makes tests of one check for what it is named with, mostly the families; what else the check
/// wants follows its name: `on_families!(killed("open"): it_opens_v4 = V4, it_opens_v6 = V6)` calls
/// `killed(V4, "open")` and `killed(V6, "open")`.
macro_rules! on_families {
    (@call $check:ident $family:expr, ($($more:expr),*)) => { $check($family $(, $more)*) };
    ($check:ident: $($tests:tt)+) => { on_families!($check(): $($tests)+); };
    ($check:ident $more:tt: $($test:ident = $family:expr),+ $(,)?) => {
        $(
            #[test]
            fn $test() -> anyhow::Result<()> {
                on_families!(@call $check $family, $more)
            }
        )+
    };
}

/// Checks that new connections were shared as `weights` say, within five standard deviations of
/// a random choice: a right balancer fails that once in a million runs.
pub(crate) fn expect_shares(shares: &Shares, weights: &[(&str, u32)]) -> Result<()> {
    let count: u64 = shares.values().sum();
    let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
    for (backend, weight) in weights {
        let got = shares.get(*backend).copied().unwrap_or(0) as f64;
        let part = f64::from(*weight) / f64::from(total);
        let expected = count as f64 * part;
        let deviation = (count as f64 * part * (1.0 - part)).sqrt();
        ensure!(
            (got - expected).abs() <= 5.0 * deviation,
            "{backend} got {got} of {count} connections instead of {expected:.0}: {shares:?}"
        );
    }
    ensure!(
        shares.len() == weights.iter().filter(|(_, weight)| *weight > 0).count(),
        "somebody else answered: {shares:?}"
    );
    Ok(())
}

/// Even weights of the three backends that a stage has.
pub(crate) const EVEN: &[(&str, u32)] = &[("web-1", 1), ("web-2", 1), ("web-3", 1)];
