//! What is so at the moment: what a daemon's circuits, limits and health make of a service.
//!
//! The rest of an explanation holds as long as the configuration does; this does not. It is read
//! from what the daemon shows of itself, and asked for by `--running` only.

use super::{FlowExplained, RequestExplained};
use crate::observe::view::{BackendView, ProxyServiceView, ServiceView, View};
use serde::Serialize;

/// A service as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ServiceNow {
    /// Whether it serves, and what holds it back, a sentence each.
    pub says: Vec<String>,
    /// Its backends.
    pub backends: Vec<BackendNow>,
}

/// A backend as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BackendNow {
    /// Its name.
    pub backend: String,
    /// `up`, `ejected`, `draining` or `down`.
    pub state: String,
    /// Why, and what it has to do.
    pub says: Vec<String>,
}

impl RequestExplained {
    /// Adds what is so at the moment.
    pub fn tell_now(&mut self, view: &View) {
        for service in self.route.iter_mut().flat_map(|route| &mut route.services) {
            service.now = now(view, &service.name);
        }
    }
}

impl FlowExplained {
    /// Adds what is so at the moment.
    pub fn tell_now(&mut self, view: &View) {
        if let Some(service) = &mut self.service {
            service.now = now(view, &service.name);
        }
    }
}

/// A service as it is; `None` if the daemon does not have it.
fn now(view: &View, service: &str) -> Option<ServiceNow> {
    let mut services = view.services.iter();
    let service = services.find(|known| known.name == service)?;
    Some(ServiceNow {
        says: says(service),
        backends: service.backends.iter().map(backend).collect(),
    })
}

fn says(service: &ServiceView) -> Vec<String> {
    let Some(proxy) = &service.proxy else {
        return Vec::new();
    };
    let mut says: Vec<String> = [circuit(proxy), limit(proxy)]
        .into_iter()
        .flatten()
        .collect();
    if proxy.panic {
        says.push("so few are healthy that health is ignored".to_owned());
    }
    if proxy.waiting > 0 {
        says.push(format!(
            "waiting for a backend: {}",
            requests(proxy.waiting)
        ));
    }
    if proxy.retrying > 0 {
        says.push(format!("{} retries or hedges in progress", proxy.retrying));
    }
    says
}

fn circuit(proxy: &ProxyServiceView) -> Option<String> {
    let circuit = proxy.circuit.as_ref()?;
    let what = match circuit.state.as_str() {
        "open" => "open: nobody is asked",
        "half-open" => "half-open: a few requests show whether it is well again",
        _ => "closed",
    };
    Some(match circuit.opens {
        0 => format!("the circuit is {what}"),
        1 => format!("the circuit is {what}; it was opened once"),
        n => format!("the circuit is {what}; it was opened {n} times"),
    })
}

fn limit(proxy: &ProxyServiceView) -> Option<String> {
    let known = proxy.concurrency?;
    let what = format!(
        "{} of at most {} at once",
        known.active,
        requests(known.limit)
    );
    Some(match known.waiting {
        0 => what,
        waiting => format!("{what}, waiting: {waiting}"),
    })
}

fn requests(count: u32) -> String {
    match count {
        1 => "1 request".to_owned(),
        n => format!("{n} requests"),
    }
}

fn backend(view: &BackendView) -> BackendNow {
    let mut says = Vec::new();
    if !view.why.is_empty() {
        says.push(view.why.clone());
    }
    if let Some(ejection) = &view.ejection {
        says.push(format!("back in {:.0}s", ejection.remaining_seconds));
    }
    if let Some(left) = view.drain_remaining_seconds {
        says.push(format!("{left:.0}s of its drain are left"));
    }
    if let Some(percent) = view.steered_percent {
        says.push(format!("{percent} % of its weight for l4 listeners"));
    }
    if let Some(proxy) = view.proxy.as_ref().filter(|proxy| proxy.in_flight > 0) {
        says.push(format!("{} in progress", requests(proxy.in_flight)));
    }
    BackendNow {
        backend: view.name.clone(),
        state: match view.ejection {
            Some(_) => "ejected".to_owned(),
            None => view.state.clone(),
        },
        says,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::view::{CircuitView, ConcurrencyView, EjectionView, ProxyBackendView};

    fn view(proxy: ProxyServiceView, backends: Vec<BackendView>) -> View {
        View {
            services: vec![ServiceView {
                name: "shop".to_owned(),
                proxy: Some(proxy),
                backends,
                ..ServiceView::default()
            }],
            ..View::default()
        }
    }

    #[test]
    fn a_quiet_service_has_little_to_say() {
        let backends = vec![BackendView {
            name: "a".to_owned(),
            state: "up".to_owned(),
            ..BackendView::default()
        }];
        let found = now(&view(ProxyServiceView::default(), backends), "shop").expect("known");
        assert_eq!(found.says, Vec::<String>::new());
        assert_eq!(found.backends[0].state, "up");
        assert_eq!(found.backends[0].says, Vec::<String>::new());
        assert_eq!(now(&View::default(), "shop"), None);
    }

    #[test]
    fn what_holds_a_service_back_is_said() {
        let proxy = ProxyServiceView {
            waiting: 1,
            retrying: 2,
            panic: true,
            circuit: Some(CircuitView {
                state: "half-open".to_owned(),
                opens: 3,
            }),
            concurrency: Some(ConcurrencyView {
                limit: 12,
                active: 12,
                waiting: 4,
            }),
            ..ProxyServiceView::default()
        };
        let backends = vec![BackendView {
            name: "a".to_owned(),
            state: "draining".to_owned(),
            why: "ejected: 5 answers of 5xx in a row".to_owned(),
            ejection: Some(EjectionView {
                remaining_seconds: 24.6,
                ..EjectionView::default()
            }),
            steered_percent: Some(70),
            proxy: Some(ProxyBackendView {
                in_flight: 3,
                ..ProxyBackendView::default()
            }),
            ..BackendView::default()
        }];
        let found = now(&view(proxy, backends), "shop").expect("known");
        assert_eq!(
            found.says,
            [
                "the circuit is half-open: a few requests show whether it is well again; it was \
                 opened 3 times",
                "12 of at most 12 requests at once, waiting: 4",
                "so few are healthy that health is ignored",
                "waiting for a backend: 1 request",
                "2 retries or hedges in progress",
            ]
        );
        let backend = &found.backends[0];
        assert_eq!(backend.state, "ejected");
        assert_eq!(
            backend.says,
            [
                "ejected: 5 answers of 5xx in a row",
                "back in 25s",
                "70 % of its weight for l4 listeners",
                "3 requests in progress",
            ]
        );
    }
}
