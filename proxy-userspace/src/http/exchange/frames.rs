//! A response's content on its way through the filters that asked for it.

use crate::filter::{Chain, Piece, States};
use crate::message::Fields;
use crate::net::body::{BodyError, Filled, Source};
use std::task::{Context, Poll};

/// The filters of a response, and what they have put out.
#[derive(Debug)]
pub(super) struct Frames<'f> {
    chain: &'f Chain,
    states: &'f mut States,
    out: Vec<u8>,
    /// Octets of `out` that were taken.
    at: usize,
    /// They may hold something back.
    is_holding: bool,
    /// They were told of the end.
    is_over: bool,
}

impl<'f> Frames<'f> {
    pub(super) fn new(chain: &'f Chain, states: &'f mut States) -> Self {
        Self {
            chain,
            states,
            out: Vec::new(),
            at: 0,
            is_holding: false,
            is_over: false,
        }
    }

    /// What comes of this source, behind the filters.
    pub(super) fn of<'t, S>(&'t mut self, source: &'t mut S) -> Through<'t, 'f, S> {
        Through {
            source,
            frames: self,
        }
    }

    fn show(&mut self, piece: Piece<'_>) {
        self.is_holding = matches!(piece, Piece::Octets(_));
        self.chain
            .response_content(self.states, piece, &mut self.out);
    }

    fn is_empty(&self) -> bool {
        self.at == self.out.len()
    }
}

/// A source behind filters.
#[derive(Debug)]
pub(super) struct Through<'t, 'f, S> {
    source: &'t mut S,
    frames: &'t mut Frames<'f>,
}

impl<S: Source> Source for Through<'_, '_, S> {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, BodyError>> {
        let frames = &mut *self.frames;
        loop {
            if !frames.is_empty() {
                return Poll::Ready(Ok(Filled::Content));
            }
            if frames.is_over {
                return Poll::Ready(Ok(Filled::End));
            }
            match self.source.poll_fill(cx)? {
                Poll::Ready(Filled::Content) => {
                    let content = self.source.content();
                    let octets = content.len();
                    frames.show(Piece::Octets(content));
                    self.source.consume(octets);
                }
                Poll::Ready(Filled::End) => {
                    frames.is_over = true;
                    frames.show(Piece::End);
                }
                Poll::Pending if frames.is_holding => frames.show(Piece::Pause),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn content(&self) -> &[u8] {
        &self.frames.out[self.frames.at..]
    }

    fn consume(&mut self, octets: usize) {
        let frames = &mut *self.frames;
        frames.at += octets;
        if frames.is_empty() {
            frames.out.clear();
            frames.at = 0;
        }
    }

    fn trailers(&self) -> &Fields {
        self.source.trailers()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Config;
    use crate::config::model::http::{Action, Compression, HttpListener, Route};
    use crate::filter::{Content, RequestContext};
    use crate::message::{Length, Name, RequestHead, ResponseHead};
    use std::io::Read as _;
    use std::net::Ipv4Addr;
    use std::task::Waker;

    /// Pieces, with waits between them.
    struct Slowly {
        pieces: Vec<Option<&'static [u8]>>,
        none: Fields,
    }

    impl Source for Slowly {
        fn poll_fill(&mut self, _: &mut Context<'_>) -> Poll<Result<Filled, BodyError>> {
            match self.pieces.first() {
                None => Poll::Ready(Ok(Filled::End)),
                Some(Some(_)) => Poll::Ready(Ok(Filled::Content)),
                Some(None) => {
                    self.pieces.remove(0);
                    Poll::Pending
                }
            }
        }

        fn content(&self) -> &[u8] {
            self.pieces[0].unwrap_or_default()
        }

        fn consume(&mut self, octets: usize) {
            assert_eq!(octets, self.content().len());
            self.pieces.remove(0);
        }

        fn trailers(&self) -> &Fields {
            &self.none
        }
    }

    fn chain() -> Chain {
        let mut listener = HttpListener::new("web", (Ipv4Addr::LOCALHOST, 0).into());
        listener.compression = Some(Compression::default());
        let config = Config {
            http_listeners: vec![listener],
            ..Config::default()
        };
        let route = Route::catch_all("all", "web", Action::service("app"));
        Chain::of_route(&route, &config)
    }

    #[tokio::test]
    async fn what_was_sent_before_a_wait_goes_on_before_it() {
        let (chain, mut states) = (chain(), States::default());
        let mut request = RequestHead::default();
        request.fields.append(Name::AcceptEncoding, b"gzip");
        let context = RequestContext {
            listener: "web",
            client: Ipv4Addr::LOCALHOST.into(),
            random: 0,
        };
        chain
            .request_head(&mut states, &mut request, &context)
            .await;
        let mut head = ResponseHead {
            status: 200,
            length: Length::Unknown,
            ..ResponseHead::default()
        };
        head.fields.append(Name::ContentType, b"text/plain");
        let content = chain.response_head(&mut states, &mut head);
        assert_eq!(content, Content::Filter);

        let mut source = Slowly {
            pieces: vec![
                Some(b"first, "),
                Some(b"second, "),
                None,
                None,
                Some(b"third"),
            ],
            none: Fields::default(),
        };
        let mut frames = Frames::new(&chain, &mut states);
        let mut cx = Context::from_waker(Waker::noop());
        let mut octets = Vec::new();
        let mut waits = Vec::new();
        loop {
            let mut through = frames.of(&mut source);
            match through.poll_fill(&mut cx) {
                Poll::Ready(Ok(Filled::Content)) => {
                    // In small parts, as a sink may take them.
                    let taken = through.content().len().min(3);
                    octets.extend_from_slice(&through.content()[..taken]);
                    through.consume(taken);
                }
                Poll::Ready(Ok(Filled::End)) => break,
                Poll::Ready(Err(error)) => panic!("{error}"),
                Poll::Pending => waits.push(octets.clone()),
            }
        }
        let mut text = String::new();
        let whole = flate2::read::GzDecoder::new(&octets[..]).read_to_string(&mut text);
        whole.expect("decodes");
        assert_eq!(text, "first, second, third");
        // Everything before the wait can be read from what had gone out by then.
        let mut before = vec![0; "first, second, ".len()];
        let mut early = flate2::read::GzDecoder::new(&waits[0][..]);
        early.read_exact(&mut before).expect("is there");
        assert_eq!(before, b"first, second, ");
    }
}
