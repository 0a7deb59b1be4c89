//! Operators' guard rules: between names and map entries. Pure.

use crate::admin::api::{GuardAction, GuardRequest, Refusal, RefusalKind};
use crate::kernel::plan::Ids;
use crate::kernel::plan::guard::{self as rules, GLOBAL_SCOPE};
use crate::kernel::store::KernelState;
use crate::observe::view::GuardView;
use ipnet::IpNet;
use proxy_common::addr::Addr;
use proxy_common::guard::{GUARD_FIXED_BITS, GuardKey, GuardRule, action, cause, owner};
use std::net::IpAddr;

/// Longest life of a rule that expires, in seconds: a century, so that nanoseconds fit.
const MAX_SECONDS: f64 = 3.2e9;

/// A rule with its place in the trie.
pub(crate) type Entry = (u32, GuardKey, GuardRule);

/// The entry that a request asks for.
pub(crate) fn entry(request: &GuardRequest, ids: &Ids, now_ns: u64) -> Result<Entry, Refusal> {
    let (length, key) = place(request, ids)?;
    let expires_ns = match request.expires_in_seconds {
        None => 0,
        Some(seconds) if seconds > 0.0 && seconds <= MAX_SECONDS => {
            now_ns.saturating_add((seconds * 1e9) as u64).max(1)
        }
        Some(_) => {
            let message = "the time to expiry must be above zero and below a century";
            return Err(Refusal::new(RefusalKind::Invalid, message));
        }
    };
    let rule = GuardRule {
        expires_ns,
        action: match request.action {
            GuardAction::Allow => action::ALLOW,
            GuardAction::Deny => action::DENY,
        },
        fallback: action::NONE,
        owner: owner::OPERATOR,
        cause: cause::MANUAL,
        ..GuardRule::default()
    };
    Ok((length, key, rule))
}

/// The entry that a request to remove means.
pub(crate) fn removable(
    request: &GuardRequest,
    ids: &Ids,
    kernel: &KernelState,
) -> Result<Entry, Refusal> {
    let (length, key) = place(request, ids)?;
    let source = &request.source;
    let found = kernel
        .guard
        .iter()
        .find(|(l, k, _)| (*l, *k) == (length, key));
    match found {
        None => {
            let message = format!("there is no rule for {source}");
            Err(Refusal::new(RefusalKind::NotFound, message))
        }
        Some((_, _, rule)) if rule.owner == owner::CONFIG => {
            let message = format!(
                "the rule for {source} is in the configuration file: change it there and reload"
            );
            Err(Refusal::new(RefusalKind::Conflict, message))
        }
        Some(entry) => Ok(*entry),
    }
}

/// Rules that have expired at `now_ns`, whoever wrote them.
pub(crate) fn expired(kernel: &KernelState, now_ns: u64) -> Vec<Entry> {
    let mut all = kernel.guard.iter();
    let is_expired = |rule: &GuardRule| rule.expires_ns != 0 && rule.expires_ns <= now_ns;
    all.by_ref()
        .filter(|(_, _, rule)| is_expired(rule))
        .copied()
        .collect()
}

/// The same rule, handed over to the configuration. Planning then removes it, or puts the
/// configuration's own rule for the same prefix in its place: there is no moment without a rule
/// where there should be one.
pub(crate) fn handed_over((length, key, rule): Entry) -> Entry {
    let handed = GuardRule {
        owner: owner::CONFIG,
        ..rule
    };
    (length, key, handed)
}

/// The rules for people; those that have expired, or decide nothing, are left out.
pub(crate) fn views(kernel: &KernelState, ids: &Ids, now_ns: u64) -> Vec<GuardView> {
    let shown = kernel.guard.iter().filter(|(_, _, rule)| {
        rule.action != action::NONE && (rule.expires_ns == 0 || rule.expires_ns > now_ns)
    });
    let mut views: Vec<GuardView> = shown.map(|entry| view(entry, ids, now_ns)).collect();
    views.sort_by(|a, b| (&a.listener, &a.source).cmp(&(&b.listener, &b.source)));
    views
}

/// One rule for people.
pub(crate) fn view((length, key, rule): &Entry, ids: &Ids, now_ns: u64) -> GuardView {
    let scope = rules::scope_of(key);
    let listener = (scope != GLOBAL_SCOPE).then(|| {
        let known = ids.listener_of(scope).map(|listener| listener.name.clone());
        known.unwrap_or_else(|| format!("#{scope}"))
    });
    let left_ns = rule.expires_ns.saturating_sub(now_ns);
    GuardView {
        source: source(*length, key),
        listener,
        action: if rule.action == action::ALLOW {
            "allow"
        } else {
            "deny"
        }
        .to_owned(),
        owner: owner_name(rule.owner).to_owned(),
        cause: cause_name(rule.cause).to_owned(),
        expires_in_seconds: (rule.expires_ns != 0).then_some(left_ns as f64 / 1e9),
        ..GuardView::default()
    }
}

fn place(request: &GuardRequest, ids: &Ids) -> Result<(u32, GuardKey), Refusal> {
    let invalid = |message| Refusal::new(RefusalKind::Invalid, message);
    let source: IpNet = request
        .source
        .parse()
        .or_else(|_| request.source.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| invalid(format!("`{}` is no address and no prefix", request.source)))?;
    if source.trunc() != source {
        let message = format!("{source} has host bits; did you mean {}?", source.trunc());
        return Err(invalid(message));
    }
    let scope = match &request.listener {
        None => GLOBAL_SCOPE,
        Some(name) => {
            let listener = ids.listener(name).ok_or_else(|| {
                Refusal::new(
                    RefusalKind::NotFound,
                    format!("there is no listener `{name}`"),
                )
            })?;
            listener.id
        }
    };
    Ok(rules::key(scope, source))
}

/// The source prefix of an entry; `None` for one that covers every IPv4 address and more.
pub(crate) fn net(length: u32, key: &GuardKey) -> Option<IpNet> {
    let bits = length.checked_sub(GUARD_FIXED_BITS)?;
    let ip = IpAddr::from(Addr::v6(key.addr));
    let bits = match ip {
        IpAddr::V4(_) => bits.checked_sub(96)?,
        IpAddr::V6(_) => bits,
    };
    IpNet::new(ip, u8::try_from(bits).ok()?).ok()
}

/// The source prefix of an entry, as text.
fn source(length: u32, key: &GuardKey) -> String {
    let bits = length.saturating_sub(GUARD_FIXED_BITS);
    let ip = IpAddr::from(Addr::v6(key.addr));
    match ip {
        IpAddr::V4(ip) if bits >= 96 => format!("{ip}/{}", bits - 96),
        IpAddr::V4(ip) => format!("::ffff:{ip}/{bits}"),
        IpAddr::V6(ip) => format!("{ip}/{bits}"),
    }
}

pub(crate) const fn owner_name(code: u8) -> &'static str {
    match code {
        owner::CONFIG => "config",
        owner::OPERATOR => "operator",
        owner::POLICY => "policy",
        _ => "unknown",
    }
}

pub(crate) const fn cause_name(code: u8) -> &'static str {
    match code {
        cause::CONFIGURED => "configured",
        cause::MANUAL => "manual",
        cause::RATE_LIMIT => "rate-limit",
        cause::AUTH_FAILURES => "auth-failures",
        cause::PROTOCOL_ABUSE => "protocol-abuse",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::plan::ListenerIds;

    fn ids() -> Ids {
        Ids::new(vec![ListenerIds {
            name: "http".to_owned(),
            service: "web".to_owned(),
            id: 5,
            backends: Vec::new(),
            retiring: Vec::new(),
        }])
    }

    fn request(source: &str) -> GuardRequest {
        GuardRequest {
            source: source.to_owned(),
            listener: None,
            action: GuardAction::Deny,
            expires_in_seconds: None,
        }
    }

    #[test]
    fn a_rule_survives_the_way_to_the_map_and_back() {
        for source in ["203.0.113.0/24", "2001:db8::/32", "0.0.0.0/0"] {
            let mut request = request(source);
            request.listener = Some("http".to_owned());
            request.expires_in_seconds = Some(60.0);
            let entry = entry(&request, &ids(), 1_000).expect("valid");
            let view = view(&entry, &ids(), 1_000);
            assert_eq!(view.source, source);
            assert_eq!(view.listener.as_deref(), Some("http"));
            assert_eq!(
                (view.action.as_str(), view.owner.as_str()),
                ("deny", "operator")
            );
            assert_eq!(view.expires_in_seconds, Some(60.0));
        }
        let (_, key, _) = entry(&request("192.0.2.7"), &ids(), 0).expect("an address");
        assert_eq!(key.scope, [0; 4]);
    }

    #[test]
    fn faults_of_a_request_are_named() {
        let refused = |request: &GuardRequest| entry(request, &ids(), 0).expect_err("refused");
        assert!(
            refused(&request("example.net"))
                .message
                .contains("example.net")
        );
        assert!(
            refused(&request("192.0.2.7/24"))
                .message
                .contains("192.0.2.0/24")
        );
        let listener = Some("smtp".to_owned());
        let unknown = refused(&GuardRequest {
            listener,
            ..request("192.0.2.7")
        });
        assert_eq!(unknown.kind, RefusalKind::NotFound);
        for seconds in [0.0, -1.0, f64::NAN, 1e30] {
            let expires_in_seconds = Some(seconds);
            refused(&GuardRequest {
                expires_in_seconds,
                ..request("192.0.2.7")
            });
        }
    }

    #[test]
    fn a_rule_of_the_configuration_is_not_removed_by_command() {
        let (length, key, rule) = entry(&request("192.0.2.0/24"), &ids(), 0).expect("valid");
        let mut kernel = KernelState {
            guard: vec![(length, key, rule)],
            ..Default::default()
        };
        removable(&request("192.0.2.0/24"), &ids(), &kernel).expect("the operator's own");
        kernel.guard = vec![handed_over((length, key, rule))];
        let refusal = removable(&request("192.0.2.0/24"), &ids(), &kernel).expect_err("config");
        assert_eq!(refusal.kind, RefusalKind::Conflict);
        let refusal = removable(&request("192.0.2.0/25"), &ids(), &kernel).expect_err("none");
        assert_eq!(refusal.kind, RefusalKind::NotFound);
    }

    #[test]
    fn an_expired_rule_is_found_and_not_shown() {
        let mut request = request("192.0.2.0/24");
        request.expires_in_seconds = Some(1.0);
        let rule = entry(&request, &ids(), 0).expect("valid");
        let kernel = KernelState {
            guard: vec![rule],
            ..Default::default()
        };
        assert_eq!(views(&kernel, &ids(), 999_999_999).len(), 1);
        assert!(expired(&kernel, 999_999_999).is_empty());
        assert!(views(&kernel, &ids(), 1_000_000_000).is_empty());
        assert_eq!(expired(&kernel, 1_000_000_000), [rule]);
    }
}
