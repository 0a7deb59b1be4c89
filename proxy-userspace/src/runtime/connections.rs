//! Which connections there are: each worker is asked for its own.

use super::control::Control;
use super::plane::Plane;
use crate::admin::api::{
    ConnectionQuery, ConnectionsAnswer, DEFAULT_CONNECTIONS, MAX_CONNECTIONS, Refusal, RefusalKind,
};
use crate::admin::control::Reply;
use crate::http::census::{Found, Wanted};
use crate::observe::view::ConnectionView;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a worker may take to answer. One that is busy for longer is left out.
const PATIENCE: Duration = Duration::from_secs(2);

impl<P: Plane> Control<P> {
    /// Asks the workers, and has a task of its own wait for them.
    pub(super) fn connections(&self, query: &ConnectionQuery, reply: Reply<ConnectionsAnswer>) {
        let wanted = match self.wanted(query) {
            Ok(wanted) => wanted,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        let Some(workers) = &self.workers else {
            return drop(reply.send(Ok(ConnectionsAnswer::default())));
        };
        let limit = wanted.limit;
        let names = workers.listener_names();
        let asked = workers.ask_connections(&wanted);
        tokio::spawn(async move {
            let answer = gather(asked, &names, limit).await;
            // The asker may have left.
            let _ = reply.send(Ok(answer));
        });
    }

    fn wanted(&self, query: &ConnectionQuery) -> Result<Wanted, Refusal> {
        let client = query.client.as_deref().map(|text| {
            let ip = || text.parse::<IpAddr>().map(IpNet::from);
            let message = format!("`{text}` is no address or prefix");
            text.parse::<IpNet>()
                .or_else(|_| ip())
                .map_err(|_| Refusal::new(RefusalKind::Invalid, message))
        });
        let listener = query.listener.as_deref().map(|name| {
            let names = self
                .workers
                .as_ref()
                .map(|workers| workers.listener_names());
            let ids = names.unwrap_or_default().into_iter();
            let found = ids.filter(|(_, known)| known == name).map(|(id, _)| id);
            let found: Vec<_> = found.collect();
            if found.is_empty() {
                let message = format!("there is no listener `{name}` of the proxies");
                return Err(Refusal::new(RefusalKind::NotFound, message));
            }
            Ok(found)
        });
        Ok(Wanted {
            listeners: listener.transpose()?,
            client: client.transpose()?,
            limit: query
                .limit
                .unwrap_or(DEFAULT_CONNECTIONS)
                .clamp(1, MAX_CONNECTIONS),
        })
    }
}

/// Waits for all workers; the oldest connections of all of them are the answer.
async fn gather(
    asked: Vec<oneshot::Receiver<Found>>,
    names: &BTreeMap<usize, String>,
    limit: usize,
) -> ConnectionsAnswer {
    let mut answer = ConnectionsAnswer::default();
    for (worker, asked) in asked.into_iter().enumerate() {
        let Ok(Ok(found)) = tokio::time::timeout(PATIENCE, asked).await else {
            continue;
        };
        answer.total += found.total;
        let views = found.connections.into_iter().map(|one| ConnectionView {
            number: one.number,
            listener: names.get(&one.listener).cloned().unwrap_or_default(),
            protocol: one.protocol.name().to_owned(),
            client: one.client.to_string(),
            server: one.server.to_string(),
            age_seconds: one.age.as_secs_f64(),
            requests: one.requests,
            received_bytes: one.received,
            sent_bytes: one.sent,
            worker,
        });
        answer.connections.extend(views);
    }
    let age = |view: &ConnectionView| view.age_seconds;
    answer
        .connections
        .sort_by(|a, b| age(b).total_cmp(&age(a)).then(a.number.cmp(&b.number)));
    answer.connections.truncate(limit);
    answer
}
