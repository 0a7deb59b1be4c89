//! Asks the responders that certificates name for their status, and has the answers stapled
//! (OCSP, RFC 6960; RFC 6066 §8).
//!
//! One task beside the workers. Handshakes never wait for it: they get the last good answer as
//! long as it is good, and then none. A certificate that its responder calls revoked is shown
//! without an answer, since clients do not want to be told by us that they should not believe us;
//! the log, the journal and the API say so.

mod schedule;

use crate::certificates::{OcspAnswer, OcspFault, OcspStatus, OcspSubject};
use crate::net::fetch::{FetchError, Fetcher};
use crate::observe::certificates::CertificateBoard;
use crate::tls::ServerSide;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Request, StatusCode};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

/// Questions at once.
const AT_ONCE: usize = 8;

/// How long a responder may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The longest answer, in octets.
const MOST: usize = 64 << 10;

/// Between looks at the calendar.
const LOOK: Duration = Duration::from_secs(30);

/// There is no answer that can be stapled.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the responder cannot be asked: {0}")]
    Fetch(#[from] FetchError),
    #[error("the responder at `{0}` cannot be asked: this is no URL")]
    Url(String),
    #[error("the responder answers with status {0}")]
    Status(StatusCode),
    #[error(transparent)]
    Answer(#[from] OcspFault),
    #[error("the responder does not know the certificate")]
    Unknown,
}

/// Has answers of responders stapled.
#[derive(Debug)]
pub struct Stapler {
    board: Arc<CertificateBoard>,
    fetcher: Fetcher,
    /// Where certificates are shown.
    sides: Vec<Arc<ServerSide>>,
    /// By fingerprint.
    known: BTreeMap<String, Known>,
    running: JoinSet<Done>,
}

#[derive(Debug)]
struct Known {
    subject: Arc<OcspSubject>,
    name: String,
    good: Option<(Vec<u8>, OcspAnswer)>,
    is_revoked: bool,
    failures: u32,
    next: i64,
    is_busy: bool,
}

type Done = (String, Result<(Vec<u8>, OcspAnswer), AskError>);

impl Stapler {
    /// A stapler that has nothing to do yet.
    pub fn new(board: Arc<CertificateBoard>) -> Self {
        Self {
            board,
            fetcher: Fetcher::plain(LIMIT, MOST),
            sides: Vec::new(),
            known: BTreeMap::new(),
            running: JoinSet::new(),
        }
    }

    /// Staples where it is told to, until nobody can tell it any more.
    pub async fn run(mut self, mut shown: mpsc::UnboundedReceiver<Vec<Arc<ServerSide>>>) {
        loop {
            let pause = self.begin(now());
            tokio::select! {
                sides = shown.recv() => match sides {
                    Some(sides) => self.show(sides),
                    None => return,
                },
                Some(done) = self.running.join_next() => match done {
                    Ok(done) => self.end(done, now(), fastrand::f64()),
                    Err(error) => warn!(%error, "a question to a responder was lost"),
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Certificates are shown there from now on, and nowhere else.
    fn show(&mut self, sides: Vec<Arc<ServerSide>>) {
        let mut before = std::mem::take(&mut self.known);
        for side in &sides {
            for (view, subject) in side.subjects() {
                let fingerprint = &view.fingerprint;
                if self.known.contains_key(fingerprint) {
                    continue;
                }
                let name = view.names.first().unwrap_or(&view.subject).clone();
                self.board.staple(fingerprint, |state| {
                    state.name.clone_from(&name);
                    state.serial.clone_from(&view.serial);
                });
                let known = before.remove(fingerprint).unwrap_or_else(|| Known {
                    subject: Arc::clone(subject),
                    name,
                    good: None,
                    is_revoked: false,
                    failures: 0,
                    next: 0,
                    is_busy: false,
                });
                self.known.insert(fingerprint.clone(), known);
            }
        }
        self.sides = sides;
        let known = &self.known;
        self.board.retain_staples(|it| known.contains_key(it));
        for (fingerprint, known) in known {
            if let Some((answer, _)) = &known.good {
                self.staple(fingerprint, Some(answer));
            }
        }
    }

    fn staple(&self, fingerprint: &str, answer: Option<&[u8]>) {
        for side in &self.sides {
            side.staple(fingerprint, answer);
        }
    }

    /// Asks what is due, and takes away what has expired; gives how long to wait before there is
    /// something to do.
    fn begin(&mut self, now: i64) -> Duration {
        let mut next = i64::MAX;
        let mut expired = Vec::new();
        for (fingerprint, known) in &mut self.known {
            if let Some((_, answer)) = &known.good {
                if answer.next_update <= now {
                    known.good = None;
                    expired.push((fingerprint.clone(), known.name.clone()));
                } else {
                    next = next.min(answer.next_update);
                }
            }
            if known.is_busy {
                continue;
            }
            if known.next > now || self.running.len() >= AT_ONCE {
                next = next.min(known.next.max(now + 1));
                continue;
            }
            known.is_busy = true;
            let (fingerprint, fetcher) = (fingerprint.clone(), self.fetcher.clone());
            let subject = Arc::clone(&known.subject);
            self.running
                .spawn(async move { (fingerprint, ask(&fetcher, &subject).await) });
        }
        for (fingerprint, name) in expired {
            warn!(
                certificate = name,
                "the stapled OCSP response has expired: none is stapled now"
            );
            self.staple(&fingerprint, None);
            self.board
                .staple(&fingerprint, |state| state.stapled_until = None);
        }
        let seconds = u64::try_from(next.saturating_sub(now)).unwrap_or(0);
        Duration::from_secs(seconds).clamp(Duration::from_secs(1), LOOK)
    }

    fn end(&mut self, (fingerprint, result): Done, now: i64, random: f64) {
        let Some(known) = self.known.get_mut(&fingerprint) else {
            return;
        };
        known.is_busy = false;
        let result = result.and_then(|(octets, answer)| match answer.status {
            OcspStatus::Unknown => Err(AskError::Unknown),
            OcspStatus::Good | OcspStatus::Revoked => Ok((octets, answer)),
        });
        match result {
            Ok((octets, answer)) => {
                known.failures = 0;
                known.next = schedule::refresh(&answer, now, random);
                if answer.status == OcspStatus::Good {
                    self.good(&fingerprint, octets, answer);
                } else {
                    self.revoked(&fingerprint);
                }
            }
            Err(error) => {
                known.failures = known.failures.saturating_add(1);
                let pause = schedule::pause(known.failures, random);
                known.next = now.saturating_add(pause);
                failed(known, &error, pause);
                self.board.staple(&fingerprint, |state| {
                    state.failed += 1;
                    if matches!(error, AskError::Unknown) {
                        state.status = OcspStatus::Unknown.name();
                    }
                    state.error = Some(error.to_string());
                });
            }
        }
    }

    fn good(&mut self, fingerprint: &str, octets: Vec<u8>, answer: OcspAnswer) {
        self.staple(fingerprint, Some(&octets));
        let Some(known) = self.known.get_mut(fingerprint) else {
            return;
        };
        if known.good.is_none() {
            info!(certificate = known.name, "an OCSP response is stapled");
        }
        known.is_revoked = false;
        known.good = Some((octets, answer));
        self.board.staple(fingerprint, |state| {
            state.answered += 1;
            state.status = OcspStatus::Good.name();
            state.stapled_until = Some(answer.next_update);
            state.error = None;
        });
    }

    fn revoked(&mut self, fingerprint: &str) {
        self.staple(fingerprint, None);
        let Some(known) = self.known.get_mut(fingerprint) else {
            return;
        };
        known.good = None;
        if !known.is_revoked {
            known.is_revoked = true;
            let message = format!("the certificate of {} is revoked", known.name);
            warn!(
                certificate = known.name,
                "its issuer has revoked this certificate"
            );
            self.board.tell(message, false);
        }
        self.board.staple(fingerprint, |state| {
            state.answered += 1;
            state.status = OcspStatus::Revoked.name();
            state.stapled_until = None;
            state.error = None;
        });
    }
}

/// Says that there is no answer, loudly where clients will notice it.
fn failed(known: &Known, error: &AskError, pause: i64) {
    let (certificate, again) = (&known.name, Duration::from_secs(pause.unsigned_abs()));
    let is_missed = known.subject.must_staple && known.good.is_none();
    match (known.failures, is_missed) {
        (_, true) => warn!(
            certificate, %error, ?again,
            "no OCSP response can be stapled, and the certificate wants one: clients may refuse it"
        ),
        (1, false) => warn!(certificate, %error, ?again, "no new OCSP response"),
        _ => debug!(certificate, %error, ?again, "no new OCSP response"),
    }
}

async fn ask(fetcher: &Fetcher, subject: &OcspSubject) -> Result<(Vec<u8>, OcspAnswer), AskError> {
    let question = Bytes::from(subject.request()?);
    let request = Request::post(&subject.responder)
        .header(CONTENT_TYPE, "application/ocsp-request")
        .header(ACCEPT, "application/ocsp-response")
        .body(question)
        .map_err(|_| AskError::Url(subject.responder.clone()))?;
    let answer = fetcher.fetch(request).await?;
    if answer.status() != StatusCode::OK {
        return Err(AskError::Status(answer.status()));
    }
    let octets = answer.into_body().to_vec();
    let judged = subject.judge(&octets, now())?;
    Ok((octets, judged))
}

/// Seconds since the epoch.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
