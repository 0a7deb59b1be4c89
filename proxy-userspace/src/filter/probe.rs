//! A filter for tests: it notes what it is shown, and marks the content that passes it.

use super::{Content, Ended, Filter, Flow, Piece, RequestContext};
use crate::message::{Length, RequestHead, ResponseHead};
use parking_lot::Mutex;
use std::sync::Arc;

/// The filter.
#[derive(Debug)]
pub struct Probe {
    /// What it puts behind each piece.
    pub mark: u8,
    /// What it has been told at the end.
    pub ended: Arc<Mutex<Vec<Ended>>>,
}

impl Probe {
    fn content(&self, piece: Piece<'_>, out: &mut Vec<u8>) {
        match piece {
            Piece::Octets(octets) => {
                out.extend_from_slice(octets);
                out.push(self.mark);
            }
            Piece::Pause => {}
            Piece::End => out.extend([b'.', self.mark]),
        }
    }
}

impl Filter for Probe {
    type State = ();

    fn request_head(&self, (): &mut (), head: &mut RequestHead, _: &RequestContext<'_>) -> Flow {
        head.length = Length::Unknown;
        Flow::Content
    }

    fn request_content(&self, (): &mut (), piece: Piece<'_>, out: &mut Vec<u8>) {
        self.content(piece, out);
    }

    fn response_head(&self, (): &mut (), head: &mut ResponseHead) -> Content {
        head.length = Length::Unknown;
        Content::Filter
    }

    fn response_content(&self, (): &mut (), piece: Piece<'_>, out: &mut Vec<u8>) {
        self.content(piece, out);
    }

    fn log(&self, (): &(), ended: &Ended) {
        self.ended.lock().push(*ended);
    }
}
