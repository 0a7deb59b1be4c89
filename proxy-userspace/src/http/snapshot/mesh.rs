//! What becomes of connections that are redirected to a listener, compiled.

use super::vips::Vips;
use super::{CompileError, Kept, ListenerId, RoutePlan};
use crate::config::model::Config;
use crate::config::model::http::{Action, HttpListener, Passthrough, Route, StreamListener};
use crate::config::model::mesh::{Direction, Mesh, Unmatched};
use crate::http::origins;
use crate::http::streams::StreamPlan;
use crate::net::Nanos;
use crate::net::clock::nanos;
use crate::types::Protocol;
use std::collections::HashMap;
use std::sync::Arc;

/// What becomes of redirected connections.
#[derive(Debug)]
pub struct MeshPlan {
    /// As configured.
    pub settings: Mesh,
    /// How long a client may be silent.
    pub detect: Nanos,
    /// How requests that no route is for go where they were to go.
    pub passthrough: RoutePlan,
    /// The services that are meant by what is dialled.
    pub vips: Vips,
    /// How connections that are not HTTP are passed on.
    pub raw: Arc<StreamPlan>,
}

impl MeshPlan {
    pub(super) fn new(
        listener: &HttpListener,
        id: ListenerId,
        config: &Config,
        kept: &Kept,
        services: &HashMap<&str, usize>,
    ) -> Result<Option<Self>, CompileError> {
        let Some(settings) = &listener.mesh else {
            return Ok(None);
        };
        // No route of a file has such a name.
        let name = format!("{}:passthrough", listener.name);
        let route = Route::catch_all(name, &*listener.name, Action::service(origins::NAME));
        let find = |name: &str| services.get(name).copied();
        Ok(Some(Self {
            detect: nanos(settings.detect),
            passthrough: RoutePlan::new(&route, config, services)?,
            vips: match settings.direction {
                Direction::Outbound => Vips::new(config, services),
                Direction::Inbound => Vips::default(),
            },
            raw: Arc::new(StreamPlan::new(
                &raw(listener, settings),
                id,
                find,
                kept,
                None,
            )?),
            settings: settings.clone(),
        }))
    }

    /// True if what nobody is for goes where it was to go.
    pub fn passes(&self) -> bool {
        self.settings.unmatched == Unmatched::Passthrough
    }

    /// True if what is redirected is what others open to programs.
    pub fn is_inbound(&self) -> bool {
        self.settings.direction == Direction::Inbound
    }

    /// True if nothing is looked at of what goes to this port.
    pub fn is_opaque(&self, port: u16) -> bool {
        self.settings.opaque.iter().any(|range| range.has(port))
    }
}

/// The listener, as one that passes TCP on.
fn raw(listener: &HttpListener, mesh: &Mesh) -> StreamListener {
    let mut raw = StreamListener::new(&*listener.name, Protocol::Tcp, listener.address, "");
    raw.service = match mesh.unmatched {
        Unmatched::Passthrough => Some(origins::NAME.to_owned()),
        Unmatched::Refuse => None,
    };
    raw.passthrough = (!mesh.names.is_empty()).then(|| Passthrough {
        names: mesh.names.clone(),
        hello_timeout: listener.timeouts.head,
    });
    raw.access_log.clone_from(&listener.access_log);
    raw.max_connections = listener.limits.connections;
    raw
}
