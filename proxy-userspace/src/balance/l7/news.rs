//! What balancers tell to whoever keeps the packet path in step: ejections, and who DNS has named.
//!
//! The telling is by the way: what is true is in the states of the backends, and is read from there.
//! So notes may be lost, when nobody takes them, without harm to anything but a history.

use super::Nanos;
use super::backend::BackendState;
use crate::health::outlier::ChangeKind;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Something that has happened to a service.
#[derive(Clone, Debug)]
pub struct Note {
    /// The service's name.
    pub service: Arc<str>,
    /// When.
    pub at: Nanos,
    /// What.
    pub what: What,
}

/// What has happened.
#[derive(Clone, Debug)]
pub enum What {
    /// A backend is ejected, would have been, or returns.
    Outlier(Arc<BackendState>, ChangeKind),
    /// DNS has named others than before.
    Members,
}

/// Notes that wait for their reader.
#[derive(Debug, Default)]
pub struct News(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    notes: VecDeque<Note>,
    reader: Option<Waker>,
}

/// Notes that may wait. Ejections take their time, so there are never many.
const MOST: usize = 4096;

impl News {
    pub(super) fn push(&self, note: Note) {
        let mut waiting = self.0.lock();
        if waiting.notes.len() == MOST {
            waiting.notes.pop_front();
        }
        waiting.notes.push_back(note);
        let reader = waiting.reader.take();
        drop(waiting);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Takes all notes; waits for one if there are none. One reader at a time.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Vec<Note>> {
        let mut waiting = self.0.lock();
        if waiting.notes.is_empty() {
            waiting.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(waiting.notes.drain(..).collect())
    }
}
