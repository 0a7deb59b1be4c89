//! The metrics page: one [`View`] and the daemon's own [`Counters`], in OpenMetrics text.
//!
//! Nothing is registered ahead and nothing is kept between scrapes: a service that leaves the
//! configuration leaves the page with it, and a counter is what the kernel's map says now.

use crate::observe::build;
use crate::observe::counters::{Counters, PROBE_BUCKETS};
use crate::observe::families::{Families, Value};
use crate::observe::http::export;
use crate::observe::names::{self, Metric};
use crate::observe::process::ProcessUsage;
use crate::observe::view::{NetworkView, ProxyBackendView, View};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// `Content-Type` of the page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics page.
///
/// # Errors
///
/// [`fmt::Error`] never in practice: writing to a string does not fail.
pub fn page(
    view: Arc<View>,
    counters: Arc<Counters>,
    ready: bool,
    process: ProcessUsage,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page {
        view,
        counters,
        ready,
        process,
    }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Everything that one scrape shows.
#[derive(Debug)]
struct Page {
    view: Arc<View>,
    counters: Arc<Counters>,
    ready: bool,
    process: ProcessUsage,
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut families = Families::new(&mut encoder);
        self.daemon(&mut families)?;
        self.packets(&mut families)?;
        self.listeners(&mut families)?;
        self.steering(&mut families)?;
        self.socket_balancing(&mut families)?;
        self.mesh(&mut families)?;
        self.backends(&mut families)?;
        self.passive_health(&mut families)?;
        self.health(&mut families)?;
        export::proxy(self.counters.proxy.get(), &mut families)?;
        self.pools(&mut families)?;
        self.acceleration(&mut families)?;
        self.data_plane(&mut families)?;
        self.process(&mut families)
    }
}

impl Page {
    fn daemon(&self, out: &mut Families) -> fmt::Result {
        let counters = &self.counters;
        out.info(
            names::BUILD_INFO,
            [build::VERSION, build::REVISION, build::RUSTC],
        )?;
        out.one(names::READY, self.ready)?;
        out.one(
            names::RELOAD_SUCCESSFUL,
            !counters.last_reload_refused.load(Relaxed),
        )?;
        out.one(
            names::RELOAD_SUCCESS_TIME,
            counters.last_reload_success_seconds.load(Relaxed) as f64,
        )?;
        let reloads = [
            ("success", counters.reloads_succeeded.load(Relaxed)),
            ("failure", counters.reloads_failed.load(Relaxed)),
        ];
        out.many(
            names::RELOADS,
            reloads.map(|(result, count)| ([result], Value::from(count))),
        )
    }

    fn packets(&self, out: &mut Families) -> fmt::Result {
        let reasons = self.view.reasons.iter();
        out.many(
            names::PACKETS,
            reasons.map(|count| {
                (
                    [count.reason.as_str(), count.outcome.as_str()],
                    Value::from(count.packets),
                )
            }),
        )
    }

    fn listeners(&self, out: &mut Families) -> fmt::Result {
        type Field = fn(&crate::observe::view::ListenerView) -> u64;
        let fields: [(Metric, Field); 6] = [
            (names::LISTENER_LOCAL_PACKETS, |listener| {
                listener.local_packets
            }),
            (names::LISTENER_LOCAL_BYTES, |listener| listener.local_bytes),
            (names::LISTENER_LOCAL_FLOWS, |listener| {
                listener.local_new_flows
            }),
            (names::LISTENER_DROPPED, |listener| listener.dropped),
            (names::LISTENER_UNTRACKED, |listener| {
                listener.untracked_flows
            }),
            (names::LISTENER_REPLACED, |listener| listener.replaced_flows),
        ];
        for (metric, field) in fields {
            let rows = self.view.services.iter().flat_map(|service| {
                service.listeners.iter().map(move |listener| {
                    (
                        [listener.name.as_str(), service.name.as_str()],
                        field(listener).into(),
                    )
                })
            });
            out.many(metric, rows)?;
        }
        Ok(())
    }

    /// Connections of the proxies to backends, which all workers count together.
    fn pools(&self, out: &mut Families) -> fmt::Result {
        type Field = fn(&ProxyBackendView) -> u32;
        let fields: [(Metric, Field); 2] = [
            (names::UPSTREAM_CONNECTIONS_ACTIVE, |pool| {
                pool.connections.saturating_sub(pool.idle)
            }),
            (names::UPSTREAM_CONNECTIONS_IDLE, |pool| pool.idle),
        ];
        for (metric, field) in fields {
            let rows = self.view.services.iter().flat_map(|service| {
                service.backends.iter().filter_map(move |backend| {
                    let names = [service.name.as_str(), backend.name.as_str()];
                    Some((names, u64::from(field(backend.proxy.as_ref()?)).into()))
                })
            });
            out.many(metric, rows)?;
        }
        Ok(())
    }

    fn acceleration(&self, out: &mut Families) -> fmt::Result {
        let Some(view) = &self.view.acceleration else {
            return Ok(());
        };
        out.one(names::ACCELERATION_ON, view.state == "on")?;
        let causes = view
            .cause
            .iter()
            .map(|cause| ([cause.as_str()], 1u64.into()));
        out.many(names::ACCELERATION_OFF, causes)?;
        out.one(names::ACCELERATION_SELF_TEST, view.self_test_seconds)?;
        out.one(names::ACCELERATED_SOCKETS, view.sockets)?;
        out.one(names::ACCELERATED_CONNECTIONS, view.connections)?;
        out.one(names::ACCELERATED_BYTES, view.bytes)?;
        let events = [
            ("by_tcp", view.by_tcp),
            ("held", view.held),
            ("full", view.full),
            ("stalled", view.stalled),
            ("blocking", view.blocking),
            ("detour", view.detours),
            ("crowded", view.crowded),
        ];
        let rows = events.map(|(event, count)| ([event], count.into()));
        out.many(names::ACCELERATION_EVENTS, rows)?;
        out.one(names::JOINED_TUNNELS, view.tunnels)?;
        out.one(names::DIRECT_BYTES, view.direct_bytes)
    }

    fn backends(&self, out: &mut Families) -> fmt::Result {
        type Field = fn(&crate::observe::view::BackendView) -> Value;
        let fields: [(Metric, Field); 9] = [
            (names::BACKEND_PACKETS, |backend| {
                backend.traffic.packets.into()
            }),
            (names::BACKEND_BYTES, |backend| backend.traffic.bytes.into()),
            (names::BACKEND_NEW_FLOWS, |backend| {
                backend.traffic.new_flows.into()
            }),
            (names::BACKEND_RETURN_PACKETS, |backend| {
                backend.traffic.return_packets.into()
            }),
            (names::BACKEND_RETURN_BYTES, |backend| {
                backend.traffic.return_bytes.into()
            }),
            (names::BACKEND_LIVE_FLOWS, |backend| {
                backend.live_flows.into()
            }),
            (names::BACKEND_WEIGHT, |backend| {
                u64::from(backend.weight).into()
            }),
            (names::BACKEND_UP, |backend| (backend.state == "up").into()),
            (names::BACKEND_DRAINING, |backend| {
                (backend.state == "draining").into()
            }),
        ];
        for (metric, field) in fields {
            let rows = self.view.services.iter().flat_map(|service| {
                service.backends.iter().map(move |backend| {
                    (
                        [service.name.as_str(), backend.name.as_str()],
                        field(backend),
                    )
                })
            });
            out.many(metric, rows)?;
        }
        Ok(())
    }

    /// What the proxies have found about backends by real traffic.
    fn passive_health(&self, out: &mut Families) -> fmt::Result {
        let backends = || {
            self.view.services.iter().flat_map(|service| {
                let backends = service.backends.iter();
                backends
                    .map(move |backend| ([service.name.as_str(), backend.name.as_str()], backend))
            })
        };
        out.many(
            names::BACKEND_EJECTED,
            backends().map(|(names, backend)| (names, backend.ejection.is_some().into())),
        )?;
        let ejections = backends().flat_map(|([service, name], backend)| {
            let counts = backend.ejections.iter();
            counts.map(move |(who, count)| ([service, name, who.as_str()], (*count).into()))
        });
        out.many(names::BACKEND_EJECTIONS, ejections)?;
        let latencies = backends()
            .filter_map(|(names, backend)| Some((names, backend.latency_seconds?.into())));
        out.many(names::BACKEND_LATENCY, latencies)?;
        let rtts = backends().filter_map(|(names, backend)| {
            Some((names, backend.network.as_ref()?.rtt_seconds?.into()))
        });
        out.many(names::BACKEND_TCP_RTT, rtts)?;
        type Count = fn(&NetworkView) -> u64;
        let counts: [(_, Count); 5] = [
            (names::BACKEND_TCP_SEGMENTS, |it| it.segments),
            (names::BACKEND_TCP_RETRANSMITS, |it| it.retransmits),
            (names::BACKEND_TCP_DISORDERED, |it| it.disordered),
            (names::BACKEND_TCP_LOOKS, |it| it.looks),
            (names::BACKEND_TCP_ZERO_WINDOWS, |it| it.zero_windows),
        ];
        for (metric, count) in counts {
            let rows = backends().flat_map(|([service, name], backend)| {
                let sides = backend.networks().into_iter();
                sides.map(move |(from, seen)| ([service, name, from], count(&seen).into()))
            });
            out.many(metric, rows)?;
        }
        let dialled = backends().flat_map(|([service, name], backend)| {
            let results = backend.workloads.iter();
            let results = results.flat_map(|it| [("opened", it.opened), ("failed", it.failed)]);
            results.map(move |(result, count)| ([service, name, result], count.into()))
        });
        out.many(names::BACKEND_WORKLOADS, dialled)?;
        let steered = backends().map(|(names, backend)| {
            let percent = backend.steered_percent.unwrap_or(100);
            (names, (f64::from(percent) / 100.0).into())
        });
        out.many(names::BACKEND_STEERED, steered)
    }

    fn health(&self, out: &mut Families) -> fmt::Result {
        let checked = || {
            self.view.services.iter().flat_map(|service| {
                service.backends.iter().filter_map(move |backend| {
                    let health = backend.health.as_ref()?;
                    Some((service.name.as_str(), backend.name.as_str(), health))
                })
            })
        };
        let probes = checked().flat_map(|(service, backend, health)| {
            let failed = health
                .failed
                .iter()
                .map(|(kind, count)| (kind.as_str(), *count));
            std::iter::once(("passed", health.passed))
                .chain(failed)
                .map(move |(result, count)| ([service, backend, result], count.into()))
        });
        out.many(names::HEALTH_PROBES, probes)?;
        out.many(
            names::HEALTH_TRANSITIONS,
            checked()
                .map(|(service, backend, health)| ([service, backend], health.transitions.into())),
        )?;
        out.many(
            names::HEALTH_DAMPED,
            checked().map(|(service, backend, health)| {
                ([service, backend], (health.verdict == "held").into())
            }),
        )?;
        let last = checked().filter_map(|(service, backend, health)| {
            Some(([service, backend], health.last_probe_seconds?.into()))
        });
        out.many(names::HEALTH_LAST_DURATION, last)?;
        let probes = self.counters.probes();
        out.histograms::<&str, 0>(
            names::HEALTH_DURATION,
            &PROBE_BUCKETS,
            [([], probes.sum, &probes.buckets[..])],
        )
    }

    fn steering(&self, out: &mut Families) -> fmt::Result {
        let Some(steering) = &self.view.steering else {
            return Ok(());
        };
        out.one(names::STEERING_BINDINGS, steering.bindings)?;
        out.one(names::STEERING_GENERATION, u64::from(steering.generation))?;
        let rows = steering.listeners.iter().flat_map(|listener| {
            let results = [
                ("steered", listener.steered),
                ("refused", listener.refused),
                ("passed", listener.passed),
                ("failed", listener.failed),
            ];
            let name = listener.name.as_str();
            results.map(|(result, count)| ([name, result], Value::from(count)))
        });
        out.many(names::STEERED, rows)?;
        out.one(names::STEERING_UNMATCHED, steering.unmatched)
    }

    fn socket_balancing(&self, out: &mut Families) -> fmt::Result {
        let Some(view) = &self.view.socket_balancing else {
            return Ok(());
        };
        out.one(names::CONNECT_ACTIVE, u64::from(view.state == "on"))?;
        let rows = view.services.iter().flat_map(|service| {
            let results = [
                ("balanced", service.connected + service.opened),
                ("refused", service.refused),
                ("passed", service.passed),
                ("unrecorded", service.unrecorded),
            ];
            let name = service.name.as_str();
            results.map(|(result, count)| ([name, result], Value::from(count)))
        });
        out.many(names::CONNECT, rows)?;
        let services = view.services.iter();
        let rows = services.map(|one| ([one.name.as_str()], Value::from(one.datagrams)));
        out.many(names::CONNECT_DATAGRAMS, rows)?;
        let backends = || {
            let services = view.services.iter();
            services.flat_map(|service| {
                let backends = service.backends.iter();
                backends.map(|one| ([service.name.as_str(), one.name.as_str()], one))
            })
        };
        let given = backends().map(|(names, one)| (names, Value::from(one.given)));
        out.many(names::CONNECT_GIVEN, given)?;
        let open = backends().map(|(names, one)| (names, Value::from(one.open)));
        out.many(names::CONNECT_OPEN, open)?;
        let ended = [("ended", view.ended), ("unreached", view.unreached)];
        let ended = ended.into_iter();
        let rows = ended.map(|(result, count)| ([result], Value::from(count)));
        out.many(names::CONNECT_ENDED, rows)
    }

    fn mesh(&self, out: &mut Families) -> fmt::Result {
        let Some(mesh) = &self.view.mesh else {
            return Ok(());
        };
        let rows = mesh.listeners.iter().flat_map(|one| {
            let results = [
                ("redirected", one.redirected),
                ("excluded", one.excluded),
                ("refused", one.refused),
                ("passed", one.passed),
                ("unreachable", one.unreachable),
                ("full", one.full),
            ];
            let name = one.name.as_str();
            results.map(|(result, count)| ([name, result], Value::from(count)))
        });
        out.many(names::MESH_CONNECTIONS, rows)?;
        let seen = mesh.listeners.iter().flat_map(|one| {
            let seen = one.protocols.iter();
            seen.map(|(word, count)| ([one.name.as_str(), word.as_str()], Value::from(*count)))
        });
        out.many(names::MESH_PROTOCOLS, seen)?;
        let workloads = mesh.listeners.iter().flat_map(|one| {
            let all = one.workloads.iter();
            all.map(|(path, count)| ([one.name.as_str(), path.as_str()], Value::from(*count)))
        });
        out.many(names::MESH_WORKLOADS, workloads)?;
        let states = ["redirected", "waiting", "failed"].map(|state| {
            let all = mesh.cgroups.iter();
            let count = all.filter(|one| one.state == state).count() as u64;
            ([state], Value::from(count))
        });
        out.many(names::MESH_CGROUPS, states)?;
        out.one(names::MESH_PORTS, mesh.ports)?;
        out.one(names::MESH_PORTS_WITHOUT_ROOM, mesh.ports_without_room)?;
        out.one(names::MESH_UNDER_WAY, mesh.under_way)
    }

    fn data_plane(&self, out: &mut Families) -> fmt::Result {
        let flows = &self.view.flow_table;
        let flow_table = (proxy_common::maps::FLOWS, flows.entries, flows.capacity);
        let usage = || {
            let maps = self.view.maps.iter();
            std::iter::once(flow_table)
                .chain(maps.map(|usage| (usage.map.as_str(), usage.entries, usage.capacity)))
        };
        out.many(
            names::MAP_ENTRIES,
            usage().map(|(map, entries, _)| ([map], entries.into())),
        )?;
        out.many(
            names::MAP_CAPACITY,
            usage().map(|(map, _, most)| ([map], most.into())),
        )?;
        out.one(names::EXPIRED_FLOWS, flows.expired)?;
        let lost = [
            (proxy_common::maps::EVENTS, self.view.lost.events),
            (proxy_common::maps::CAPTURE, self.view.lost.capture),
        ];
        out.many(
            names::RING_LOST,
            lost.map(|(buffer, count)| ([buffer], count.into())),
        )?;
        let errors = self.counters.kernel_errors();
        out.many(
            names::STORE_ERRORS,
            errors
                .into_iter()
                .map(|(call, count)| ([call], count.into())),
        )?;
        out.one(names::RECONCILED, self.counters.reconciled.load(Relaxed))
    }

    fn process(&self, out: &mut Families) -> fmt::Result {
        let process = &self.process;
        out.one(names::PROCESS_CPU, process.cpu_seconds)?;
        out.one(names::PROCESS_RESIDENT, process.resident_bytes)?;
        out.one(names::PROCESS_VIRTUAL, process.virtual_bytes)?;
        out.one(names::PROCESS_THREADS, process.threads)?;
        out.one(names::PROCESS_START, process.start_seconds)?;
        out.one(names::PROCESS_FDS, process.open_fds)?;
        out.one(names::PROCESS_MAX_FDS, process.max_fds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::view::{
        AccelerationView, BackendView, BalancedBackendView, BalancedServiceView, FlowTable,
        HealthView, ListenerView, MeshListenerView, MeshView, ReasonCount, ServiceView,
        SocketBalancingView, SteeredView, SteeringView, Traffic, WorkloadConnectionsView,
        WorkloadView,
    };
    use std::time::Duration;

    fn view() -> View {
        View {
            acceleration: Some(AccelerationView {
                cause: Some("self-test".to_owned()),
                ..AccelerationView::default()
            }),
            services: vec![ServiceView {
                name: "web".to_owned(),
                listeners: vec![ListenerView {
                    name: "http".to_owned(),
                    dropped: 4,
                    ..Default::default()
                }],
                backends: vec![BackendView {
                    name: "we\"b1".to_owned(),
                    state: "draining".to_owned(),
                    traffic: Traffic {
                        packets: 7,
                        ..Default::default()
                    },
                    health: Some(HealthView {
                        failed: [("timeout".to_owned(), 2)].into(),
                        last_probe_seconds: Some(0.001),
                        ..Default::default()
                    }),
                    ejections: [("latency".to_owned(), 3)].into(),
                    latency_seconds: Some(0.25),
                    network: Some(NetworkView {
                        rtt_seconds: Some(0.002),
                        segments: 9,
                        ..Default::default()
                    }),
                    workloads: Some(WorkloadConnectionsView {
                        network: NetworkView {
                            segments: 4,
                            ..Default::default()
                        },
                        opened: 2,
                        failed: 1,
                    }),
                    steered_percent: Some(70),
                    proxy: Some(ProxyBackendView {
                        connections: 5,
                        idle: 3,
                        ..Default::default()
                    }),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            reasons: vec![ReasonCount {
                reason: "denied".to_owned(),
                outcome: "drop".to_owned(),
                packets: 9,
                ..Default::default()
            }],
            steering: Some(SteeringView {
                bindings: 2,
                listeners: vec![SteeredView {
                    name: "http".to_owned(),
                    refused: 6,
                    ..Default::default()
                }],
                ..Default::default()
            }),
            socket_balancing: Some(SocketBalancingView {
                state: "on".to_owned(),
                services: vec![BalancedServiceView {
                    name: "web".to_owned(),
                    connected: 5,
                    opened: 2,
                    backends: vec![BalancedBackendView {
                        name: "b1".to_owned(),
                        given: 7,
                        open: 3,
                        ..Default::default()
                    }],
                    ..Default::default()
                }],
                ..Default::default()
            }),
            mesh: Some(MeshView {
                listeners: vec![MeshListenerView {
                    name: "mesh".to_owned(),
                    refused: 4,
                    protocols: [("tls".to_owned(), 3)].into(),
                    workloads: [("/shop".to_owned(), 2)].into(),
                    ..Default::default()
                }],
                ports: 7,
                cgroups: vec![WorkloadView {
                    state: "waiting".to_owned(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            flow_table: FlowTable {
                capacity: 100,
                entries: 3,
                expired: 1,
            },
            ..Default::default()
        }
    }

    fn text() -> String {
        let counters = Counters::default();
        let _series = export::testing::one_of_each(&counters);
        counters.probe(Duration::from_millis(2));
        counters.kernel_error("update");
        page(
            Arc::new(view()),
            Arc::new(counters),
            true,
            ProcessUsage::read(),
        )
        .expect("writes")
    }

    #[test]
    fn samples_carry_their_labels_and_escape_them() {
        let text = text();
        for line in [
            r#"sluice_packets_total{reason="denied",outcome="drop"} 9"#,
            r#"sluice_backend_packets_total{service="web",backend="we\"b1"} 7"#,
            r#"sluice_backend_up{service="web",backend="we\"b1"} 0"#,
            r#"sluice_backend_draining{service="web",backend="we\"b1"} 1"#,
            r#"sluice_listener_dropped_packets_total{listener="http",service="web"} 4"#,
            r#"sluice_health_probes_total{service="web",backend="we\"b1",result="timeout"} 2"#,
            r#"sluice_health_probe_duration_seconds_count 1"#,
            r#"sluice_steered_total{listener="http",result="refused"} 6"#,
            r#"sluice_connect_total{service="web",result="balanced"} 7"#,
            r#"sluice_connect_backend_sockets{service="web",backend="b1"} 3"#,
            r#"sluice_mesh_connections_total{listener="mesh",result="refused"} 4"#,
            r#"sluice_mesh_accepted_total{listener="mesh",protocol="tls"} 3"#,
            r#"sluice_mesh_workload_connections_total{listener="mesh",workload="/shop"} 2"#,
            r#"sluice_mesh_cgroups{state="waiting"} 1"#,
            "sluice_mesh_ports 7",
            r#"sluice_bpf_map_capacity{map="flows"} 100"#,
            r#"sluice_kernel_errors_total{call="update"} 1"#,
            r#"sluice_health_probe_duration_seconds_bucket{le="+Inf"} 1"#,
            "sluice_config_last_reload_successful 1",
            r#"sluice_requests_total{listener="in",route="all",method="GET",code="200"} 1"#,
            r#"sluice_request_duration_seconds_bucket{le="0.0025",listener="in",route="all"} 1"#,
            r#"sluice_refusals_total{listener="in",side="client",reason="obs_fold"} 1"#,
            r#"sluice_upstream_requests_total{service="web",backend="a",code="none"} 1"#,
            r#"sluice_upstream_response_bytes_total{service="web",backend="a"} 2"#,
            r#"sluice_upstream_response_duration_seconds_count{service="web",backend="a"} 1"#,
            r#"sluice_log_dropped_total{reason="behind"} 0"#,
            r#"sluice_upstream_connections_active{service="web",backend="we\"b1"} 2"#,
            r#"sluice_upstream_connections_idle{service="web",backend="we\"b1"} 3"#,
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_metric_of_the_table_is_on_the_page_and_no_other() {
        let text = text();
        let exported: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .filter_map(|rest| rest.split(' ').next())
            .collect();
        let expected: Vec<&str> = names::ALL
            .iter()
            .map(|metric| {
                let name = metric.name;
                name.strip_suffix("_total")
                    .or_else(|| name.strip_suffix("_info"))
                    .unwrap_or(name)
            })
            .collect();
        assert_eq!(exported, expected);
    }

    #[test]
    fn every_family_has_a_sample_when_there_is_something_to_count() {
        let text = text();
        for metric in names::ALL {
            let sample = |line: &&str| line.starts_with(metric.name);
            assert!(
                text.lines().any(|line| sample(&line)),
                "{} has no sample",
                metric.name
            );
        }
    }
}
