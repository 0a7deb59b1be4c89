//! What a configuration means to the workers: compiled once, immutable, swapped as a whole.
//!
//! Everything that can be decided without a request is decided here: which listener a number
//! means, which routes it has, which series are counted in, what a redirect says. What lives
//! longer than a configuration (counts and health of backends, series, log files) is held by
//! reference and handed from one snapshot to the next.

mod certificates;
mod kept;
mod mesh;
mod service;
mod vips;

pub(super) use kept::Opened;
pub use kept::{Kept, OpenConnection};
pub use mesh::MeshPlan;
pub use service::{FallbackPlan, ServicePlan, UpstreamLimits};

use super::exchange::respond::Fixed;
use super::listening::{ListenerKind, LogPlan, invalid};
use super::secure::TlsPlan;
use super::streams::StreamPlan;
use crate::acme::Challenges;
use crate::balance::l7::{Registry, ServiceSpec};
use crate::condemn;
use crate::config::model::Config;
use crate::config::model::acme::Acme;
use crate::config::model::http::{
    Action, Fallback, HashOn, HttpListener, Overload, Redirect, Route, StreamListener,
};
use crate::config::model::tracing::{Propagation, Tracing};
use crate::files::Site;
use crate::filter::Chain;
use crate::net::Nanos;
use crate::net::clock::nanos;
use crate::observe::http::{ListenerCells, RouteCells, Series};
use crate::observe::trace::{Form, Forms};
use crate::resilience::RetryPlan;
use crate::routing::{CompiledRewrite, Found, Query, Router, Shares};
use crate::tls::TlsError;
use crate::trust::{SystemRoots, TrustError};
use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::Arc;

/// A listener's number: the same in all snapshots of a process that have such a listener at this
/// address, whatever its name is.
pub type ListenerId = usize;

/// A snapshot as the tasks of one worker hold it.
///
/// Each request counts its hold; that counting stays on the worker, so it is not atomic.
pub type SharedSnapshot = std::rc::Rc<std::sync::Arc<Snapshot>>;

/// A configuration as the workers see it.
#[derive(Debug)]
pub struct Snapshot {
    /// By [`ListenerId`]; `None` for those that are gone.
    listeners: Vec<Option<ListenerPlan>>,
    /// By [`ListenerId`], too.
    streams: Vec<Option<Arc<StreamPlan>>>,
    routes: Vec<RoutePlan>,
    services: Vec<ServicePlan>,
    registry: Registry,
    tracing: Option<TracePlan>,
    overload: Option<Overload>,
    busy_poll: Nanos,
    acme: Option<Arc<Acme>>,
    challenges: Arc<Challenges>,
    condemn: Option<condemn::Plan>,
    watch: Arc<condemn::Watch>,
}

/// Traces, where there are any.
#[derive(Debug)]
pub struct TracePlan {
    /// As configured.
    pub settings: Arc<Tracing>,
    /// Forms in which backends are told.
    pub forms: Forms,
}

/// A configuration cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// An access log cannot be opened.
    #[error("the access log of listener `{listener}` cannot be opened")]
    Log {
        /// Name of the listener.
        listener: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A folder of files cannot be opened.
    #[error("the folder of route `{route}` cannot be opened")]
    Files {
        /// Name of the route.
        route: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// TLS cannot be spoken.
    #[error("TLS of listener `{listener}`: {source}")]
    Tls {
        /// Name of the listener.
        listener: String,
        /// Why.
        source: TlsError,
    },
    /// TLS to the backends of a service cannot be spoken.
    #[error("TLS to the backends of service `{service}`")]
    BackendTls {
        /// Name of the service.
        service: String,
        /// Why.
        #[source]
        source: TrustError,
    },
    /// Something is not valid that validation should have refused.
    #[error("a part of the configuration is not valid")]
    Invalid(#[source] Box<dyn Error + Send + Sync>),
}

/// A listener.
#[derive(Debug)]
pub struct ListenerPlan {
    /// As configured.
    pub settings: HttpListener,
    /// Its time limits, in nanoseconds.
    pub timeouts: Timeouts,
    /// What is counted.
    pub cells: Arc<Series<ListenerCells>>,
    /// What is counted of requests that no route matched.
    pub unrouted: Arc<Series<RouteCells>>,
    /// Where requests are logged.
    pub log: Option<LogPlan>,
    /// TLS, if it is spoken.
    pub tls: Option<TlsPlan>,
    /// Where all requests are sent, if they are.
    pub redirect: Option<Redirect>,
    /// What becomes of connections that are redirected here, if any are.
    pub mesh: Option<MeshPlan>,
    /// Open connections, of all workers: at this listener, and at all.
    open: kept::Opened,
    router: Router,
    /// Its routes, and what is counted of each at this listener.
    routes: Vec<(usize, Arc<Series<RouteCells>>)>,
}

/// Time limits of a listener, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To the end of a head.
    pub head: Nanos,
    /// Between two pieces of content.
    pub body_idle: Nanos,
    /// A connection without a request.
    pub idle: Nanos,
    /// A client that takes nothing.
    pub write: Nanos,
    /// After a refusal.
    pub linger: Nanos,
}

/// A route.
#[derive(Debug)]
pub struct RoutePlan {
    /// As configured.
    pub settings: Route,
    /// What happens.
    pub action: ActionPlan,
    /// What is done to messages on the way.
    pub filters: Chain,
    /// The path that the backend sees.
    pub path: Option<CompiledRewrite>,
    /// The whole exchange; `u64::MAX` for no limit.
    pub timeout: Nanos,
    /// Stands in the place of the service's.
    pub retries: Option<RetryPlan>,
}

/// What happens to a request.
#[derive(Debug)]
pub enum ActionPlan {
    /// One service answers.
    Service(usize),
    /// One of several, by weight.
    Split {
        /// The services.
        services: Vec<usize>,
        /// Their weights.
        shares: Shares,
        /// What keeps a client with one.
        sticky: Option<HashOn>,
    },
    /// The client is sent elsewhere.
    Redirect(Redirect, Option<CompiledRewrite>),
    /// A fixed answer.
    Respond(Fixed),
    /// Files of this host.
    Files(Site),
}

impl Snapshot {
    /// Compiles a configuration. `old` is the snapshot that it replaces; nothing of it changes
    /// until [`Snapshot::activate`].
    ///
    /// # Errors
    ///
    /// [`CompileError`].
    pub fn compile(
        config: &Config,
        kept: &mut Kept,
        old: Option<&Self>,
        seed: u64,
        now: Nanos,
    ) -> Result<Self, CompileError> {
        let used = used_services(config);
        let specs = used
            .iter()
            .filter_map(|name| config.service(name))
            .map(|service| ServiceSpec::new(service, &service.upstream))
            .collect();
        let registry = Registry::build(old.map(|old| &old.registry), specs, kept.secret, seed, now);
        let roots = SystemRoots::default();
        let services: Vec<ServicePlan> = registry
            .services()
            .iter()
            .filter_map(|state| {
                let before = old.and_then(|old| old.service(old.service_named(state.name())?));
                ServicePlan::new(state, config, kept, &roots, before).transpose()
            })
            .collect::<Result<_, _>>()?;
        let by_name: HashMap<&str, usize> = services
            .iter()
            .enumerate()
            .map(|(index, service)| (service.state.name(), index))
            .collect();
        let routes = config.routes.iter();
        let routes: Vec<RoutePlan> = routes
            .map(|route| RoutePlan::new(route, config, &by_name))
            .collect::<Result<_, _>>()?;
        let mut listeners = Vec::new();
        for listener in &config.http_listeners {
            let id = kept.listener(listener);
            if listeners.len() <= id {
                listeners.resize_with(id + 1, || None);
            }
            let by_name = &by_name;
            listeners[id] = Some(ListenerPlan::new(
                listener,
                id,
                config,
                kept,
                (old, by_name),
            )?);
        }
        let mut streams = Vec::new();
        for stream in &config.stream_listeners {
            let kind = ListenerKind::Stream(stream.protocol);
            let id = kept.number(kind, &stream.name, stream.address);
            if streams.len() <= id {
                streams.resize_with(id + 1, || None);
            }
            let services = |name: &str| by_name.get(name).copied();
            let before = old.and_then(|old| old.stream(id)?.tls.as_ref());
            let plan = StreamPlan::new(stream, id, services, kept, before)?;
            streams[id] = Some(Arc::new(plan));
        }
        Ok(Self {
            listeners,
            streams,
            routes,
            services,
            registry,
            tracing: config.tracing.as_ref().map(TracePlan::new),
            overload: config.overload,
            busy_poll: nanos(config.workers.busy_poll),
            acme: config.acme.clone().map(Arc::new),
            challenges: Arc::clone(&kept.challenges),
            condemn: config
                .condemn
                .as_ref()
                .map(|settings| condemn::Plan::new(settings, config.trusted_proxies())),
            watch: Arc::clone(&kept.watch),
        })
    }

    /// Puts limits and memberships in force; called once, when the snapshot is swapped in.
    pub fn activate(&self, old: Option<&Self>, now: Nanos) {
        self.registry.activate(old.map(|old| &old.registry), now);
    }

    /// A listener, unless it is gone.
    #[inline]
    pub fn listener(&self, id: ListenerId) -> Option<&ListenerPlan> {
        self.listeners.get(id)?.as_ref()
    }

    /// Listeners with their numbers.
    pub fn listeners(&self) -> impl Iterator<Item = (ListenerId, &ListenerPlan)> {
        let all = self.listeners.iter().enumerate();
        all.filter_map(|(id, listener)| Some((id, listener.as_ref()?)))
    }

    /// A listener that passes TCP or UDP on, unless it is gone.
    pub fn stream(&self, id: ListenerId) -> Option<&Arc<StreamPlan>> {
        self.streams.get(id)?.as_ref()
    }

    /// Listeners that pass TCP or UDP on, with their numbers.
    pub fn streams(&self) -> impl Iterator<Item = (ListenerId, &Arc<StreamPlan>)> {
        let all = self.streams.iter().enumerate();
        all.filter_map(|(id, stream)| Some((id, stream.as_ref()?)))
    }

    /// Traces; `None` if nobody collects any.
    #[inline]
    pub fn tracing(&self) -> Option<&TracePlan> {
        self.tracing.as_ref()
    }

    /// When workers refuse requests because they have too much to do.
    pub fn overload(&self) -> Option<&Overload> {
        self.overload.as_ref()
    }

    /// How long a worker that has done something asks for more before it sleeps.
    pub fn busy_poll(&self) -> Nanos {
        self.busy_poll
    }

    /// When sources are condemned; `None` for never.
    pub fn condemn(&self) -> Option<&condemn::Plan> {
        self.condemn.as_ref()
    }

    /// Who offends, and who may not connect.
    pub fn watch(&self) -> &Arc<condemn::Watch> {
        &self.watch
    }

    /// A route.
    pub fn route(&self, index: usize) -> &RoutePlan {
        &self.routes[index]
    }

    /// A service; `None` for a name that does not exist.
    pub fn service(&self, index: usize) -> Option<&ServicePlan> {
        self.services.get(index)
    }

    /// The number of a service.
    pub fn service_named(&self, name: &str) -> Option<usize> {
        let mut services = self.services.iter();
        services.position(|service| service.state.name() == name)
    }

    /// The services.
    pub fn services(&self) -> &[ServicePlan] {
        &self.services
    }

    /// The balancers' side of the services.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// Names of the services that routes and listeners refer to, each once.
fn used_services(config: &Config) -> Vec<String> {
    let mut used = Vec::new();
    let mut add = |name: &str| {
        if !used.iter().any(|used| used == name) {
            used.push(name.to_owned());
        }
    };
    for route in &config.routes {
        if let Action::Forward(split) = &route.action {
            split.targets.iter().for_each(|(name, _)| add(name));
        }
        if let Some(mirror) = &route.mirror {
            add(&mirror.service);
        }
    }
    config
        .stream_listeners
        .iter()
        .flat_map(StreamListener::services)
        .for_each(&mut add);
    let meshes = config.http_listeners.iter().flat_map(|it| &it.mesh);
    let rules = meshes.flat_map(|mesh| &mesh.names);
    rules.for_each(|rule| add(&rule.service));
    if config.redirects() {
        vips::services(config).for_each(&mut add);
    }
    // Theirs as well; one that was added here may have another.
    let mut at = 0;
    while let Some(service) = used.get(at).and_then(|name| config.service(name)) {
        if let Some(Fallback::Service(name)) = &service.upstream.resilience.fallback
            && !used.contains(name)
        {
            used.push(name.clone());
        }
        at += 1;
    }
    used
}

impl TracePlan {
    fn new(settings: &Tracing) -> Self {
        let forms = settings.propagation.iter().map(|form| match form {
            Propagation::W3c => Form::W3c,
            Propagation::B3 => Form::B3Single,
            Propagation::B3Multi => Form::B3Multi,
        });
        Self {
            forms: forms.collect(),
            settings: Arc::new(settings.clone()),
        }
    }
}

/// The same place at the port of an HTTPS listener.
fn to_https(port: u16) -> Redirect {
    Redirect {
        status: 308,
        scheme: Some("https".to_owned()),
        host: None,
        port: Some(port),
        path: None,
        keep_query: true,
    }
}

impl ListenerPlan {
    fn new(
        listener: &HttpListener,
        id: ListenerId,
        config: &Config,
        kept: &Kept,
        (old, services): (Option<&Snapshot>, &HashMap<&str, usize>),
    ) -> Result<Self, CompileError> {
        let before = old.and_then(|old| old.listener(id)?.tls.as_ref());
        let before = before.map(|tls| &*tls.side);
        let tls = listener.tls.as_ref().map(|tls| {
            let alpn = crate::tls::alpn(&listener.http2);
            let place = (listener.name.as_str(), listener.address);
            TlsPlan::new(place, tls, alpn, kept, before)
        });
        let timeouts = &listener.timeouts;
        let own = config.routes.iter().enumerate();
        let own = own.filter(|(_, route)| route.listeners.contains(&listener.name));
        let log = listener.access_log.as_ref();
        Ok(Self {
            timeouts: Timeouts {
                head: nanos(timeouts.head),
                body_idle: nanos(timeouts.body_idle),
                idle: nanos(timeouts.idle),
                write: nanos(timeouts.write),
                linger: nanos(timeouts.linger),
            },
            cells: kept.metrics.listener(&listener.name),
            unrouted: kept.metrics.route(&listener.name, ""),
            log: log
                .map(|log| LogPlan::new(log, &listener.name, kept))
                .transpose()?,
            tls: tls.transpose()?,
            mesh: MeshPlan::new(listener, id, config, kept, services)?,
            redirect: listener.https_redirect.map(to_https),
            open: kept.opened(id),
            router: Router::build(&listener.name, &config.routes).map_err(invalid)?,
            routes: own
                .map(|(index, route)| (index, kept.metrics.route(&listener.name, &route.name)))
                .collect(),
            settings: listener.clone(),
        })
    }

    /// A place for one more connection, unless there are as many as may be.
    pub fn take_place(&self) -> Option<OpenConnection> {
        self.open.among(self.settings.limits.connections)
    }

    /// Open connections of this listener, and of all.
    pub fn open_connections(&self) -> [u32; 2] {
        self.open.counts()
    }

    /// What is counted of a route's requests at this listener.
    pub fn cells_of(&self, route: Option<usize>) -> &Series<RouteCells> {
        let found = route.and_then(|route| {
            let at = self
                .routes
                .binary_search_by_key(&route, |(index, _)| *index);
            Some(&*self.routes[at.ok()?].1)
        });
        found.unwrap_or(&self.unrouted)
    }

    /// The rule that serves a request.
    #[inline]
    pub fn find(&self, query: &Query<'_>) -> Option<Found> {
        self.router.find(query)
    }
}

impl RoutePlan {
    fn new(
        route: &Route,
        config: &Config,
        services: &HashMap<&str, usize>,
    ) -> Result<Self, CompileError> {
        let rewrite = |path: &Option<_>| {
            let compiled = path.as_ref().map(CompiledRewrite::new).transpose();
            compiled.map_err(invalid)
        };
        // A name that does not exist was refused when the configuration was read.
        let index = |name: &str| services.get(name).copied().unwrap_or(usize::MAX);
        let action = match &route.action {
            Action::Forward(split) => match split.targets.as_slice() {
                [(name, weight)] if *weight > 0 => ActionPlan::Service(index(name)),
                targets => ActionPlan::Split {
                    services: targets.iter().map(|(name, _)| index(name)).collect(),
                    shares: Shares::new(targets.iter().map(|(_, weight)| *weight)),
                    sticky: split.sticky.clone(),
                },
            },
            Action::Redirect(redirect) => {
                ActionPlan::Redirect(redirect.clone(), rewrite(&redirect.path)?)
            }
            Action::Respond(fixed) => ActionPlan::Respond(service::fixed(fixed)),
            Action::Files(files) => {
                let site = Site::open(files).map_err(|source| CompileError::Files {
                    route: route.name.clone(),
                    source,
                })?;
                ActionPlan::Files(site)
            }
        };
        Ok(Self {
            action,
            filters: Chain::of_route(route, config),
            path: rewrite(&route.rewrite.path)?,
            timeout: route.timeout.map_or(u64::MAX, nanos),
            retries: route.retries.as_ref().map(RetryPlan::new),
            settings: route.clone(),
        })
    }
}
