//! Answers that do not end by themselves.

use super::answer::Asked;
use super::{Given, Shared};
use crate::admin::api::{CaptureQuery, HappeningQuery, Refusal, RefusalKind};
use crate::admin::control::Command;
use crate::observe::flow::{ObserveQuery, Told};
use crate::observe::journal::{Following, Happening, Journal};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderMap, header};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

/// What has happened since the event that the caller has seen last, and then what happens
/// (WHATWG HTML §9.2). Without one, what happens from now on; with `past=true`, all that is kept.
/// A caller that was away for too long is told so by an event `missed`.
pub(super) async fn events(
    State(shared): State<Shared>,
    Asked(query): Asked<HappeningQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let permit = place(&shared)?;
    let journal = shared.journal;
    let seen = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
        .or(query.after);
    let after = match seen {
        Some(id) => journal.number(&id).ok_or_else(|| {
            let message = format!("`{id}` is the id of no event");
            Refusal::new(RefusalKind::Invalid, message)
        })?,
        None if query.past => 0,
        None => journal.last(),
    };
    let reader = Reader {
        latest: journal.watch(),
        journal,
        after,
        _permit: permit,
    };
    let batches = stream::unfold(reader, |mut reader| async {
        Some((reader.next().await?, reader))
    });
    let events = batches.flat_map(|following| stream::iter(written(&following)));
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response())
}

/// Somebody who reads the journal.
struct Reader {
    journal: Arc<Journal>,
    latest: watch::Receiver<u64>,
    after: u64,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    /// Waits for events; `None` when there will be none.
    async fn next(&mut self) -> Option<Following> {
        loop {
            // Seen before it is read, so that what comes in between wakes us again.
            self.latest.borrow_and_update();
            let following = self.journal.after(self.after);
            self.after = following.last;
            if !following.events.is_empty() {
                return Some(following);
            }
            self.latest.changed().await.ok()?;
        }
    }
}

fn written(following: &Following) -> Vec<Result<Event, Infallible>> {
    let missed = (following.missed > 0).then(|| {
        Event::default()
            .event("missed")
            .data(following.missed.to_string())
    });
    let events = following.events.iter().map(|event| {
        let written = Event::default().id(&event.id).event(event.topic.name());
        // A plain struct; serialising it cannot fail.
        written
            .json_data(Happening::clone(event))
            .unwrap_or_default()
    });
    missed.into_iter().chain(events).map(Ok).collect()
}

fn place(shared: &Shared) -> Result<OwnedSemaphorePermit, Refusal> {
    let places = Arc::clone(&shared.streams);
    places.try_acquire_owned().map_err(|_| {
        let message = "as many clients as there may be follow events already";
        Refusal::new(RefusalKind::Stopping, message)
    })
}

/// One JSON object per stage of a flow, those of one flow together. The stream ends when the daemon
/// stops; closing it ends the tracing that it asked for. A caller that is too slow is told how many
/// stages it has missed by an event `missed`.
pub(super) async fn observe(
    State(shared): State<Shared>,
    Asked(query): Asked<ObserveQuery>,
) -> Result<Response, Refusal> {
    let observe = |reply| Command::Observe(Box::new(query), reply);
    let told = shared.handle.ask(observe).await?;
    let stream = stream::unfold(told, |mut told| async {
        let event = match told.recv().await? {
            // A view is a plain struct; serialising it cannot fail.
            Told::Stage(stage) => Event::default().json_data(stage).unwrap_or_default(),
            Told::Missed(stages) => Event::default().event("missed").data(stages.to_string()),
        };
        Some((Ok::<_, Infallible>(event), told))
    });
    Ok(Sse::new(stream)
        .keep_alive(KeepAlive::default())
        .into_response())
}

/// The answer is the capture file itself, written as packets come.
pub(super) async fn capture(
    State(shared): State<Shared>,
    Given(query): Given<CaptureQuery>,
) -> Result<Response, Refusal> {
    let capture = |reply| Command::Capture(query, reply);
    let chunks = shared.handle.ask(capture).await?;
    let body = Body::from_stream(chunk_stream(chunks));
    Ok(([(header::CONTENT_TYPE, "application/x-pcapng")], body).into_response())
}

fn chunk_stream(
    chunks: mpsc::Receiver<Bytes>,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    stream::unfold(chunks, |mut chunks| async {
        let chunk = chunks.recv().await?;
        Some((Ok(chunk), chunks))
    })
}
