//! Content on its way through the filters that asked for it.

use crate::filter::{Chain, Content, Piece, States};
use crate::message::{Fields, Length, ResponseHead};
use crate::net::body::{BodyError, Filled, Source};
use std::task::{Context, Poll};

/// Which content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Request,
    Response,
}

/// The filters of an exchange, and what they have put out.
#[derive(Debug)]
pub(super) struct Frames<'f> {
    chain: &'f Chain,
    states: &'f mut States,
    request: Passed,
    response: Passed,
    /// The request's content passes filters.
    sees_request: bool,
    /// The response's content does.
    sees_response: bool,
}

/// Content of one way that has passed the filters.
#[derive(Debug, Default)]
struct Passed {
    out: Vec<u8>,
    /// Octets of `out` that were taken.
    at: usize,
    /// They may hold something back.
    is_holding: bool,
    /// They were shown something.
    is_begun: bool,
    /// They were told of the end.
    is_over: bool,
}

impl Passed {
    fn is_empty(&self) -> bool {
        self.at == self.out.len()
    }
}

impl<'f> Frames<'f> {
    /// The filters of a request of this length, or of one that is answered here.
    pub(super) fn new(chain: &'f Chain, states: &'f mut States, request: Length) -> Self {
        Self {
            chain,
            sees_request: states.sees_request() && request != Length::None,
            states,
            request: Passed::default(),
            response: Passed::default(),
            sees_response: false,
        }
    }

    /// Shows the filters the response's head.
    pub(super) fn response_head(&mut self, head: &mut ResponseHead) {
        let content = self.chain.response_head(self.states, head);
        self.sees_response = content == Content::Filter && head.length != Length::None;
    }

    /// True if the request's content passes filters.
    pub(super) fn sees_request(&self) -> bool {
        self.sees_request
    }

    /// True if the response's content does.
    pub(super) fn sees_response(&self) -> bool {
        self.sees_response
    }

    /// True if some of the request's content was taken from its source.
    pub(super) fn has_begun(&self) -> bool {
        self.request.is_begun
    }

    /// What comes of the request's content, behind the filters.
    pub(super) fn request<'t, S>(&'t mut self, source: &'t mut S) -> Through<'t, 'f, S> {
        Through {
            source,
            frames: self,
            way: Way::Request,
        }
    }

    /// What comes of the response's content, behind the filters.
    pub(super) fn response<'t, S>(&'t mut self, source: &'t mut S) -> Through<'t, 'f, S> {
        Through {
            source,
            frames: self,
            way: Way::Response,
        }
    }

    fn passed(&mut self, way: Way) -> &mut Passed {
        match way {
            Way::Request => &mut self.request,
            Way::Response => &mut self.response,
        }
    }

    fn show(&mut self, way: Way, piece: Piece<'_>) {
        let (chain, states) = (self.chain, &mut *self.states);
        let passed = match way {
            Way::Request => &mut self.request,
            Way::Response => &mut self.response,
        };
        passed.is_holding = matches!(piece, Piece::Octets(_));
        passed.is_over = piece == Piece::End;
        passed.is_begun = true;
        match way {
            Way::Request => chain.request_content(states, piece, &mut passed.out),
            Way::Response => chain.response_content(states, piece, &mut passed.out),
        }
    }
}

/// A source behind filters.
#[derive(Debug)]
pub(super) struct Through<'t, 'f, S> {
    source: &'t mut S,
    frames: &'t mut Frames<'f>,
    way: Way,
}

impl<S: Source> Source for Through<'_, '_, S> {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, BodyError>> {
        let (frames, way) = (&mut *self.frames, self.way);
        loop {
            let passed = frames.passed(way);
            if !passed.is_empty() {
                return Poll::Ready(Ok(Filled::Content));
            }
            if passed.is_over {
                return Poll::Ready(Ok(Filled::End));
            }
            let is_holding = passed.is_holding;
            match self.source.poll_fill(cx)? {
                Poll::Ready(Filled::Content) => {
                    let content = self.source.content();
                    let octets = content.len();
                    frames.show(way, Piece::Octets(content));
                    self.source.consume(octets);
                }
                Poll::Ready(Filled::End) => frames.show(way, Piece::End),
                Poll::Pending if is_holding => frames.show(way, Piece::Pause),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn content(&self) -> &[u8] {
        let passed = match self.way {
            Way::Request => &self.frames.request,
            Way::Response => &self.frames.response,
        };
        &passed.out[passed.at..]
    }

    fn consume(&mut self, octets: usize) {
        let passed = self.frames.passed(self.way);
        passed.at += octets;
        if passed.is_empty() {
            passed.out.clear();
            passed.at = 0;
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
    use crate::filter::RequestContext;
    use crate::message::{Name, RequestHead};
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
    async fn a_request_passes_filters_that_asked_for_its_content() {
        let (chain, mut states) = (Chain::probing(b'!'), States::default());
        let mut request = RequestHead::default();
        let context = RequestContext {
            listener: "web",
            client: Ipv4Addr::LOCALHOST.into(),
            random: 0,
        };
        chain
            .request_head(&mut states, &mut request, &context)
            .await;
        let without = Frames::new(&chain, &mut states, Length::None);
        assert!(!without.sees_request(), "there is none");
        let mut frames = Frames::new(&chain, &mut states, Length::Unknown);
        assert!(frames.sees_request() && !frames.has_begun());
        let mut source = Slowly {
            pieces: vec![Some(b"a"), Some(b"b")],
            none: Fields::default(),
        };
        let mut cx = Context::from_waker(Waker::noop());
        let mut octets = Vec::new();
        let mut through = frames.request(&mut source);
        while let Poll::Ready(Ok(Filled::Content)) = through.poll_fill(&mut cx) {
            octets.extend_from_slice(through.content());
            let taken = through.content().len();
            through.consume(taken);
        }
        assert_eq!(String::from_utf8_lossy(&octets), "a!b!.!");
        assert!(frames.has_begun(), "another backend would get less");
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
        let mut frames = Frames::new(&chain, &mut states, Length::None);
        frames.response_head(&mut head);
        assert!(frames.sees_response() && !frames.sees_request());
        let mut cx = Context::from_waker(Waker::noop());
        let mut octets = Vec::new();
        let mut waits = Vec::new();
        loop {
            let mut through = frames.response(&mut source);
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
