//! Which way the octets of connections go: by TCP, past it, or past this process.

use crate::config::model::Service;
use crate::config::model::http::{Accelerate, Splice};
use serde::Serialize;

/// What a listener and a service have to say about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OctetsExplained {
    /// `accelerate` of the listener.
    pub clients: &'static str,
    /// `accelerate` of the service, where there is one for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backends: Option<&'static str>,
    /// `splice` of the listener.
    pub splice: &'static str,
    /// What that makes of tunnels.
    pub tunnels: &'static str,
}

/// `None` where nothing is as it is not by default.
pub(super) fn explain(
    accelerate: Accelerate,
    splice: Splice,
    service: Option<&Service>,
    is_sealed: bool,
) -> Option<OctetsExplained> {
    let of_service = service.map(|service| service.upstream.accelerate);
    let is_default = accelerate == Accelerate::Off
        && splice == Splice::Auto
        && of_service.unwrap_or_default() == Accelerate::Off;
    if is_default {
        return None;
    }
    let are_both = accelerate != Accelerate::Off && of_service != Some(Accelerate::Off);
    let tunnels = match splice {
        _ if is_sealed => "read and written by this process, for TLS is between",
        Splice::Off => "read and written by this process",
        Splice::Auto if are_both => {
            "past this process where client and backend are on this host, else through pipes"
        }
        Splice::Pipe | Splice::Auto => "through pipes of the kernel, while much flows",
    };
    Some(OctetsExplained {
        clients: accelerate.name(),
        backends: of_service.map(Accelerate::name),
        splice: splice.name(),
        tunnels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnels(
        accelerate: Accelerate,
        splice: Splice,
        service: Accelerate,
    ) -> Option<&'static str> {
        let mut one = Service::new("app");
        one.upstream.accelerate = service;
        Some(explain(accelerate, splice, Some(&one), false)?.tunnels)
    }

    #[test]
    fn tunnels_go_past_this_process_if_both_sides_are_accelerated() {
        let (on, off) = (Accelerate::Auto, Accelerate::Off);
        let past = tunnels(on, Splice::Auto, on).expect("told");
        assert!(past.starts_with("past this process"), "{past}");
        for one in [
            tunnels(on, Splice::Auto, off),
            tunnels(off, Splice::Auto, on),
            tunnels(on, Splice::Pipe, on),
        ] {
            assert!(one.expect("told").starts_with("through pipes"), "{one:?}");
        }
        let copied = tunnels(on, Splice::Off, on).expect("told");
        assert_eq!(copied, "read and written by this process");
        assert_eq!(tunnels(off, Splice::Auto, off), None, "as by default");
    }

    #[test]
    fn nothing_goes_past_tls() {
        let explained = explain(Accelerate::On, Splice::Auto, None, true).expect("told");
        assert!(explained.tunnels.ends_with("TLS is between"));
    }
}
