//! Every metric: name, type, labels and meaning, in one table.
//!
//! Rules (prometheus.io, "Metric and label naming"): one prefix, base units, `_total` for
//! counters, `_info` for facts, and no label whose values clients can choose. `docs/metrics.md`
//! is compared with this table by a test, so a name cannot be exported without being documented
//! nor documented without being exported.
//!
//! `process_*` keeps the names that every Prometheus dashboard already knows.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in buckets.
    Histogram,
    /// Always 1; its labels are the facts.
    Info,
}

impl Kind {
    /// The word used in the documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// A metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name as scraped, suffix included.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels, in the order in which they are exported.
    pub labels: &'static [&'static str],
    /// One sentence, also the HELP line.
    pub help: &'static str,
}

/// Declares the metrics as constants and lists them in [`ALL`].
macro_rules! metrics {
    ($($id:ident = $name:literal, $kind:ident, [$($label:literal),*], $help:literal;)+) => {
        $(#[doc = $help] pub const $id: Metric = Metric {
            name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help,
        };)+
        /// Every metric, in the order in which they are exported.
        pub const ALL: &[Metric] = &[$($id),+];
    };
}

metrics! {
    BUILD_INFO = "sluice_build_info", Info, ["version", "revision", "rustc"],
        "The build of the running daemon.";
    READY = "sluice_ready", Gauge, [],
        "1 while /readyz answers 200.";
    RELOAD_SUCCESSFUL = "sluice_config_last_reload_successful", Gauge, [],
        "1 unless the last attempt to load the configuration was refused.";
    RELOAD_SUCCESS_TIME = "sluice_config_last_reload_success_timestamp_seconds", Gauge, [],
        "When the configuration in force was loaded.";
    RELOADS = "sluice_config_reloads_total", Counter, ["result"],
        "Reloads by result, success or failure.";

    PACKETS = "sluice_packets_total", Counter, ["reason", "outcome"],
        "Packets by the reason of their verdict and by what became of them: pass, forward or drop.";

    LISTENER_LOCAL_PACKETS = "sluice_listener_local_packets_total", Counter, ["listener", "service"],
        "Packets that a local service's listener handed to this host's stack.";
    LISTENER_LOCAL_BYTES = "sluice_listener_local_bytes_total", Counter, ["listener", "service"],
        "Octets of IP packet of those.";
    LISTENER_LOCAL_FLOWS = "sluice_listener_local_new_flows_total", Counter, ["listener", "service"],
        "New flows of a local service's listener.";
    LISTENER_DROPPED = "sluice_listener_dropped_packets_total", Counter, ["listener", "service"],
        "Packets to the listener that were dropped; sluice_packets_total tells why.";
    LISTENER_UNTRACKED = "sluice_listener_untracked_flows_total", Counter, ["listener", "service"],
        "New flows that found no room in the flow table and are forwarded by the ring alone.";
    LISTENER_REPLACED = "sluice_listener_replaced_flows_total", Counter, ["listener", "service"],
        "New flows that took the place of one which never sent a second packet.";

    STEERING_BINDINGS = "sluice_steering_bindings", Gauge, [],
        "Addresses and prefixes that are steered to listeners, each with a port or range of ports.";
    STEERING_GENERATION = "sluice_steering_generation", Gauge, [],
        "Raised whenever other sockets were put in force.";
    STEERED = "sluice_steered_total", Counter, ["listener", "result"],
        "New connections and datagrams to listeners' bindings: steered, refused or passed on because nobody served the listener, failed if the kernel did not take its socket.";
    STEERING_UNMATCHED = "sluice_steering_unmatched_total", Counter, [],
        "New connections and datagrams that no binding was for.";

    CONNECT_ACTIVE = "sluice_connect_active", Gauge, [],
        "1 while sockets of some cgroup are given backends at connect().";
    CONNECT = "sluice_connect_total", Counter, ["service", "result"],
        "Sockets, and destinations of sockets that are not connected, which dialled the service: balanced, refused or passed for want of a backend, unrecorded if they could not be written down in full.";
    CONNECT_DATAGRAMS = "sluice_connect_datagrams_total", Counter, ["service"],
        "Datagrams of sockets that are not connected which were sent to a backend.";
    CONNECT_GIVEN = "sluice_connect_backend_total", Counter, ["service", "backend"],
        "Sockets, and destinations of sockets that are not connected, which were given the backend.";
    CONNECT_OPEN = "sluice_connect_backend_sockets", Gauge, ["service", "backend"],
        "Connected sockets that were given the backend and are open.";
    CONNECT_ENDED = "sluice_connect_ended_total", Counter, ["result"],
        "Sockets whose backend was lost and which were to be ended: ended, or unreached.";

    MESH_CONNECTIONS = "sluice_mesh_connections_total", Counter, ["listener", "result"],
        "Connections that programs of chosen cgroups opened: redirected, excluded by a rule, refused or passed because they could not be redirected; unreachable and full tell why, unless nobody served the listener.";
    MESH_PROTOCOLS = "sluice_mesh_accepted_total", Counter, ["listener", "protocol"],
        "Connections accepted at a listener that others are redirected to, by what was seen of them.";
    MESH_WORKLOADS = "sluice_mesh_workload_connections_total", Counter, ["listener", "workload"],
        "Redirected connections by the cgroup of the program; after the first 256 as (others).";
    MESH_CGROUPS = "sluice_mesh_cgroups", Gauge, ["state"],
        "Cgroups that are to be redirected: redirected, waiting for them to exist, failed.";
    MESH_PORTS = "sluice_mesh_ports", Gauge, [],
        "Ports of programs whose connections are redirected when they arrive.";
    MESH_PORTS_WITHOUT_ROOM = "sluice_mesh_ports_without_room", Gauge, [],
        "Ports of programs that found no room in the kernel's table, so that what arrives there is not redirected.";
    MESH_UNDER_WAY = "sluice_mesh_handshakes", Gauge, [],
        "Redirected connections of which one end is established and the other is not.";

    BACKEND_PACKETS = "sluice_backend_packets_total", Counter, ["service", "backend"],
        "Packets sent to the backend.";
    BACKEND_BYTES = "sluice_backend_bytes_total", Counter, ["service", "backend"],
        "Octets of IP packet sent to the backend, before encapsulation.";
    BACKEND_NEW_FLOWS = "sluice_backend_new_flows_total", Counter, ["service", "backend"],
        "Flows that were given to the backend.";
    BACKEND_RETURN_PACKETS = "sluice_backend_return_packets_total", Counter, ["service", "backend"],
        "Packets of the backend that were sent to clients (modes nat and full-nat).";
    BACKEND_RETURN_BYTES = "sluice_backend_return_bytes_total", Counter, ["service", "backend"],
        "Octets of those.";
    BACKEND_LIVE_FLOWS = "sluice_backend_live_flows", Gauge, ["service", "backend"],
        "Flows of the backend that are not closing.";
    BACKEND_WEIGHT = "sluice_backend_weight", Gauge, ["service", "backend"],
        "Configured weight of the backend.";
    BACKEND_UP = "sluice_backend_up", Gauge, ["service", "backend"],
        "1 while the backend takes new flows.";
    BACKEND_DRAINING = "sluice_backend_draining", Gauge, ["service", "backend"],
        "1 while the backend keeps its flows but takes no new ones.";
    BACKEND_EJECTED = "sluice_backend_ejected", Gauge, ["service", "backend"],
        "1 while the backend is out because of what it did with real traffic.";
    BACKEND_EJECTIONS = "sluice_backend_ejections_total", Counter, ["service", "backend", "detector"],
        "Ejections of the backend by what has found it.";
    BACKEND_LATENCY = "sluice_backend_latency_seconds", Gauge, ["service", "backend"],
        "Latency of the backend as the proxies see it: the smoothed mean of intervals.";
    BACKEND_TCP_RTT = "sluice_backend_tcp_rtt_seconds", Gauge, ["service", "backend"],
        "Mean round trip of connections to the backend when they were last looked at, whosesoever they are.";
    BACKEND_TCP_SEGMENTS = "sluice_backend_tcp_segments_total", Counter, ["service", "backend", "from"],
        "Segments sent to the backend with octets or to open a connection, those sent again among them, from proxies or from workloads that were balanced at connect().";
    BACKEND_TCP_RETRANSMITS = "sluice_backend_tcp_retransmits_total", Counter, ["service", "backend", "from"],
        "Segments of those that were sent again.";
    BACKEND_TCP_DISORDERED = "sluice_backend_tcp_out_of_order_total", Counter, ["service", "backend", "from"],
        "Segments of the backend that came out of order, as they do after a loss.";
    BACKEND_TCP_LOOKS = "sluice_backend_tcp_looks_total", Counter, ["service", "backend", "from"],
        "Looks at connections to the backend on which something moved or waited: about one a second for each.";
    BACKEND_TCP_ZERO_WINDOWS = "sluice_backend_tcp_zero_windows_total", Counter, ["service", "backend", "from"],
        "Of those looks the ones where the backend took nothing although octets waited for it.";
    BACKEND_WORKLOADS = "sluice_backend_workload_connections_total", Counter, ["service", "backend", "result"],
        "Connections of workloads to the backend, balanced at connect() and watched: opened or failed.";
    BACKEND_STEERED = "sluice_backend_steered_weight_ratio", Gauge, ["service", "backend"],
        "What l4 listeners use of the backend's weight; below 1 where latency has reduced it.";

    HEALTH_PROBES = "sluice_health_probes_total", Counter, ["service", "backend", "result"],
        "Health probes by result: passed, or the way in which they failed.";
    HEALTH_TRANSITIONS = "sluice_health_transitions_total", Counter, ["service", "backend"],
        "Changes of the health verdict.";
    HEALTH_DAMPED = "sluice_health_damped", Gauge, ["service", "backend"],
        "1 while flap damping holds the backend down.";
    HEALTH_LAST_DURATION = "sluice_health_last_probe_duration_seconds", Gauge, ["service", "backend"],
        "Time that the last probe of the backend which passed took.";
    HEALTH_DURATION = "sluice_health_probe_duration_seconds", Histogram, [],
        "Time that health probes took, passed or failed.";

    CONNECTIONS = "sluice_connections_total", Counter, ["listener"],
        "Connections that a proxy listener took.";
    CONNECTIONS_ACTIVE = "sluice_connections_active", Gauge, ["listener"],
        "Connections of a proxy listener that are open.";
    ACCEPT_PAUSES = "sluice_accept_pauses_total", Counter, ["listener"],
        "Times that no more connections were accepted, for want of descriptors or memory.";
    REQUESTS_ACTIVE = "sluice_requests_active", Gauge, ["listener"],
        "Requests in progress.";
    ENDS = "sluice_request_ends_total", Counter, ["listener", "end"],
        "Exchanges by how they ended.";
    REFUSALS = "sluice_refusals_total", Counter, ["listener", "side", "reason"],
        "Messages that were refused, by who sent them and why.";
    STREAM_RECEIVED = "sluice_stream_received_bytes_total", Counter, ["listener"],
        "Octets that a tcp or udp listener received from clients.";
    STREAM_SENT = "sluice_stream_sent_bytes_total", Counter, ["listener"],
        "Octets that a tcp or udp listener sent to clients.";
    DATAGRAMS_RECEIVED = "sluice_datagrams_received_total", Counter, ["listener"],
        "Datagrams that a udp listener received from clients.";
    DATAGRAMS_SENT = "sluice_datagrams_sent_total", Counter, ["listener"],
        "Datagrams that a udp listener sent to clients.";
    DATAGRAMS_DROPPED = "sluice_datagrams_dropped_total", Counter, ["listener", "reason"],
        "Datagrams that were not passed on, either way, by reason.";
    STREAM_DURATION = "sluice_stream_duration_seconds", Histogram, ["listener"],
        "How long connections of a tcp listener, or sessions of a udp listener, lasted.";
    TLS_HANDSHAKES = "sluice_tls_handshakes_total", Counter, ["listener", "version", "result"],
        "Handshakes by the version that was agreed on, and by how they ended.";
    TLS_RESUMED = "sluice_tls_resumed_total", Counter, ["listener"],
        "Handshakes that took an earlier session up again.";
    TLS_HANDSHAKE_DURATION = "sluice_tls_handshake_seconds", Histogram, ["listener"],
        "Time that handshakes took that went well, the client's part included.";
    CERTIFICATE_NOT_AFTER = "sluice_cert_not_after_timestamp_seconds", Gauge, ["listener", "name", "serial"],
        "Last second of the certificate's validity, since the Unix epoch.";
    ACME_ORDERS = "sluice_acme_orders_total", Counter, ["certificate", "result"],
        "Orders for a certificate, which is named by its first name, by result: ok or failed.";
    ACME_NEXT_ORDER = "sluice_acme_next_order_timestamp_seconds", Gauge, ["certificate"],
        "When a certificate is ordered next, since the Unix epoch; 0 for as soon as possible.";
    OCSP_REQUESTS = "sluice_ocsp_requests_total", Counter, ["certificate", "serial", "result"],
        "Questions to responders (OCSP) by result: ok, also where the answer is that the certificate is revoked, or failed.";
    OCSP_REVOKED = "sluice_ocsp_revoked", Gauge, ["certificate", "serial"],
        "1 if the certificate's responder has last said that it is revoked.";
    OCSP_STAPLED_UNTIL = "sluice_ocsp_stapled_until_timestamp_seconds", Gauge, ["certificate", "serial"],
        "Until when the stapled OCSP response is good, since the Unix epoch; left out while none is stapled.";
    OFFENCES = "sluice_offences_total", Counter, ["offence", "standing"],
        "Offences of clients, and whether they counted against their source.";
    CONDEMNATIONS = "sluice_condemnations_total", Counter, ["offence", "result"],
        "Sources that had offended too often, and what became of that.";
    ACCUSATIONS_LOST = "sluice_accusations_lost_total", Counter, [],
        "Sources that had offended too often while too many others had: their offences count anew.";
    CONDEMNED = "sluice_condemned_sources", Gauge, [],
        "Sources that are condemned.";
    TURNED_AWAY = "sluice_condemned_connections_total", Counter, [],
        "Connections that were reset when they were accepted, because of their source.";
    REQUESTS = "sluice_requests_total", Counter, ["listener", "route", "method", "code"],
        "Requests by method and by the status that the client was sent.";
    REQUEST_DURATION = "sluice_request_duration_seconds", Histogram, ["listener", "route"],
        "Time from a request's first octet to its response's last.";
    REQUEST_BYTES = "sluice_request_bytes_total", Counter, ["listener", "route"],
        "Octets of requests received from clients.";
    RESPONSE_BYTES = "sluice_response_bytes_total", Counter, ["listener", "route"],
        "Octets of responses sent to clients.";
    ROUTE_UPSTREAM_REQUEST_BYTES = "sluice_route_upstream_request_bytes_total", Counter, ["listener", "route"],
        "Octets of requests sent to backends.";
    ROUTE_UPSTREAM_RESPONSE_BYTES = "sluice_route_upstream_response_bytes_total", Counter, ["listener", "route"],
        "Octets of responses received from backends.";
    UPSTREAM_REQUESTS = "sluice_upstream_requests_total", Counter, ["service", "backend", "code"],
        "Requests sent to the backend, by its status.";
    UPSTREAM_RESPONSE_DURATION = "sluice_upstream_response_duration_seconds", Histogram, ["service", "backend"],
        "Time from an attempt's begin to the head of the backend's response.";
    UPSTREAM_CONNECT_DURATION = "sluice_upstream_connect_duration_seconds", Histogram, ["service", "backend"],
        "Time that opening connections to the backend took.";
    UPSTREAM_CONNECT_FAILURES = "sluice_upstream_connect_failures_total", Counter, ["service", "backend", "reason"],
        "Connections to the backend that could not be opened.";
    UPSTREAM_STREAMS = "sluice_upstream_streams_total", Counter, ["service", "backend"],
        "TCP connections and UDP sessions that were passed on to the backend.";
    UPSTREAM_STREAM_SENT = "sluice_upstream_stream_sent_bytes_total", Counter, ["service", "backend"],
        "Octets of those that were sent to the backend.";
    UPSTREAM_STREAM_RECEIVED = "sluice_upstream_stream_received_bytes_total", Counter, ["service", "backend"],
        "Octets of those that were received from the backend.";
    UPSTREAM_REQUEST_BYTES = "sluice_upstream_request_bytes_total", Counter, ["service", "backend"],
        "Octets of requests sent to the backend.";
    UPSTREAM_RESPONSE_BYTES = "sluice_upstream_response_bytes_total", Counter, ["service", "backend"],
        "Octets of responses received from the backend.";
    RETRIES = "sluice_retries_total", Counter, ["service", "reason"],
        "Attempts after a request's first, by why they were made.";
    RETRY_BUDGET_EXHAUSTED = "sluice_retry_budget_exhausted_total", Counter, ["service"],
        "Retries that were not made because the service's budget was used up.";
    HEDGES = "sluice_hedges_total", Counter, ["service", "result"],
        "Second attempts beside slow ones: won, lost, failed, or denied.";
    CIRCUIT_STATE = "sluice_circuit_state", Gauge, ["service"],
        "The service's circuit breaker: 0 closed, 1 half-open, 2 open.";
    CIRCUIT_OPENS = "sluice_circuit_opens_total", Counter, ["service"],
        "Times that the service's circuit breaker was opened.";
    CONCURRENCY_LIMIT = "sluice_concurrency_limit", Gauge, ["service"],
        "Requests to the service that there may be at once.";
    CONCURRENCY_ACTIVE = "sluice_concurrency_active", Gauge, ["service"],
        "Requests to the service that count towards its limit.";
    QUEUE_DURATION = "sluice_upstream_queue_duration_seconds", Histogram, ["service"],
        "Waits for a place at a backend, of requests that had to wait.";
    LOG_LINES = "sluice_log_lines_total", Counter, [],
        "Lines written to access logs.";
    LOG_DROPPED = "sluice_log_dropped_total", Counter, ["reason"],
        "Lines lost because the writer was too far behind, or because a write failed.";
    LOG_ERRORS = "sluice_log_errors_total", Counter, [],
        "Access logs that could not be written to or opened.";
    SPANS = "sluice_trace_spans_total", Counter, ["result"],
        "Spans by whether they were exported, dropped because the queue was full, or refused.";
    UPSTREAM_CONNECTIONS_ACTIVE = "sluice_upstream_connections_active", Gauge, ["service", "backend"],
        "Connections to the backend that serve a request.";
    UPSTREAM_CONNECTIONS_IDLE = "sluice_upstream_connections_idle", Gauge, ["service", "backend"],
        "Connections to the backend that are kept for the next request.";

    ACCELERATION_ON = "sluice_acceleration_on", Gauge, [],
        "1 while new connections within this host are accelerated.";
    ACCELERATION_OFF = "sluice_acceleration_off", Gauge, ["cause"],
        "1 while connections within this host are not accelerated though that is asked for: privileges, kernel, self-test, stalled.";
    ACCELERATION_SELF_TEST = "sluice_acceleration_self_test_seconds", Gauge, [],
        "How long the self-test took that acceleration has passed; 0 if it has not.";
    ACCELERATED_SOCKETS = "sluice_accelerated_sockets", Gauge, [],
        "Sockets whose octets go past TCP within this host, two for each connection.";
    ACCELERATED_CONNECTIONS = "sluice_accelerated_connections_total", Counter, [],
        "Connections whose octets went past TCP within this host.";
    ACCELERATED_BYTES = "sluice_accelerated_bytes_total", Counter, [],
        "Octets that went past TCP within this host.";
    ACCELERATION_EVENTS = "sluice_acceleration_events_total", Counter, ["event"],
        "What became of accelerated connections otherwise: messages by TCP, writes held up, no room, no progress, clients left alone because they block; tunnels' messages through this process.";
    JOINED_TUNNELS = "sluice_joined_tunnels_total", Counter, [],
        "Tunnels whose octets could go past this process.";
    DIRECT_BYTES = "sluice_direct_bytes_total", Counter, [],
        "Octets of tunnels that went past this process.";

    MAP_ENTRIES = "sluice_bpf_map_entries", Gauge, ["map"],
        "Entries in use of a map of the data plane; for flows as of the last complete sweep.";
    MAP_CAPACITY = "sluice_bpf_map_capacity", Gauge, ["map"],
        "Entries that a map of the data plane holds at most.";
    EXPIRED_FLOWS = "sluice_flows_expired_total", Counter, [],
        "Idle entries that the sweeper cleared from the flow table since the daemon started.";
    RING_LOST = "sluice_ring_buffer_lost_total", Counter, ["buffer"],
        "Records lost because a buffer was full or its reader too slow: packets, and what is noted of flows.";
    STORE_ERRORS = "sluice_kernel_errors_total", Counter, ["call"],
        "Failed operations on the data plane's maps and links, by what was tried.";
    RECONCILED = "sluice_reconciled_edits_total", Counter, [],
        "Map entries that had to be repaired because they differed from the configuration.";

    PROCESS_CPU = "process_cpu_seconds_total", Counter, [],
        "User and system CPU time of the daemon.";
    PROCESS_RESIDENT = "process_resident_memory_bytes", Gauge, [],
        "Resident memory of the daemon.";
    PROCESS_VIRTUAL = "process_virtual_memory_bytes", Gauge, [],
        "Virtual memory of the daemon.";
    PROCESS_THREADS = "process_threads", Gauge, [],
        "Threads of the daemon.";
    PROCESS_START = "process_start_time_seconds", Gauge, [],
        "When the daemon started, seconds since the epoch.";
    PROCESS_FDS = "process_open_fds", Gauge, [],
        "Open file descriptors of the daemon.";
    PROCESS_MAX_FDS = "process_max_fds", Gauge, [],
        "File descriptors that the daemon may open.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn names_follow_the_rules() {
        let mut seen = BTreeSet::new();
        for metric in ALL {
            let name = metric.name;
            assert!(seen.insert(name), "{name} twice");
            assert!(
                name.starts_with("sluice_") || name.starts_with("process_"),
                "{name}"
            );
            assert_eq!(
                metric.kind == Kind::Counter,
                name.ends_with("_total"),
                "{name}"
            );
            assert_eq!(metric.kind == Kind::Info, name.ends_with("_info"), "{name}");
            assert!(metric.help.ends_with('.'), "{name}");
        }
    }

    /// Rows of the tables in `docs/metrics.md`: `| name | type | labels | meaning |`.
    fn documented() -> BTreeMap<String, (String, String)> {
        let text = include_str!("../../../docs/metrics.md");
        text.lines()
            .filter_map(|line| {
                let cells: Vec<&str> = line.trim().trim_matches('|').split('|').collect();
                let [name, kind, labels, _] = cells.as_slice() else {
                    return None;
                };
                let name = name.trim().strip_prefix('`')?.strip_suffix('`')?;
                Some((
                    name.to_owned(),
                    (kind.trim().to_owned(), labels.replace([' ', '`'], "")),
                ))
            })
            .collect()
    }

    #[test]
    fn the_documentation_lists_exactly_what_is_exported() {
        let exported = ALL
            .iter()
            .map(|metric| {
                let kind = metric.kind.name().to_owned();
                (metric.name.to_owned(), (kind, metric.labels.join(",")))
            })
            .collect();
        similar_maps(&documented(), &exported);
    }

    fn similar_maps(
        documented: &BTreeMap<String, (String, String)>,
        exported: &BTreeMap<String, (String, String)>,
    ) {
        for (name, facts) in exported {
            assert_eq!(
                documented.get(name),
                Some(facts),
                "docs/metrics.md on {name}"
            );
        }
        for name in documented.keys() {
            assert!(
                exported.contains_key(name),
                "docs/metrics.md lists {name}, never exported"
            );
        }
    }
}
