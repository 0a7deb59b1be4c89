//! The list of all filters.

use super::{Content, Ended, Filter, Flow, Piece, RequestContext, compress, fault, fields};
use crate::message::{RequestHead, ResponseHead};

macro_rules! filters {
    ($($(#[$only:meta])? $name:ident = $filter:ty;)*) => {
        /// One of the filters.
        #[derive(Debug)]
        #[expect(missing_docs, reason = "the variants are the filters")]
        pub enum AnyFilter { $($(#[$only])? $name($filter),)* }

        /// What one of the filters remembers.
        #[derive(Debug)]
        #[expect(missing_docs, reason = "the variants are the filters")]
        pub enum AnyState { $($(#[$only])? $name(<$filter as Filter>::State),)* }

        $($(#[$only])? impl From<$filter> for AnyFilter {
            fn from(filter: $filter) -> Self {
                Self::$name(filter)
            }
        })*

        impl AnyFilter {
            /// What the filter remembers at the beginning.
            pub(super) fn state(&self) -> AnyState {
                match self { $($(#[$only])? Self::$name(_) => AnyState::$name(Default::default()),)* }
            }

            /// See [`Filter::request_head`].
            pub(super) fn request_head(
                &self,
                state: &mut AnyState,
                head: &mut RequestHead,
                context: &RequestContext<'_>,
            ) -> Flow {
                match (self, state) {
                    $($(#[$only])? (Self::$name(filter), AnyState::$name(state)) => {
                        filter.request_head(state, head, context)
                    })*
                    // A chain makes its states itself.
                    _ => Flow::Continue,
                }
            }

            /// See [`Filter::response_head`].
            pub(super) fn response_head(
                &self,
                state: &mut AnyState,
                head: &mut ResponseHead,
            ) -> Content {
                match (self, state) {
                    $($(#[$only])? (Self::$name(filter), AnyState::$name(state)) => {
                        filter.response_head(state, head)
                    })*
                    _ => Content::Pass,
                }
            }

            /// See [`Filter::request_content`].
            pub(super) fn request_content(
                &self,
                state: &mut AnyState,
                piece: Piece<'_>,
                out: &mut Vec<u8>,
            ) {
                match (self, state) {
                    $($(#[$only])? (Self::$name(filter), AnyState::$name(state)) => {
                        filter.request_content(state, piece, out);
                    })*
                    _ => {}
                }
            }

            /// See [`Filter::log`].
            pub(super) fn log(&self, state: &AnyState, ended: &Ended) {
                match (self, state) {
                    $($(#[$only])? (Self::$name(filter), AnyState::$name(state)) => {
                        filter.log(state, ended);
                    })*
                    _ => {}
                }
            }

            /// See [`Filter::response_content`].
            pub(super) fn response_content(
                &self,
                state: &mut AnyState,
                piece: Piece<'_>,
                out: &mut Vec<u8>,
            ) {
                match (self, state) {
                    $($(#[$only])? (Self::$name(filter), AnyState::$name(state)) => {
                        filter.response_content(state, piece, out);
                    })*
                    _ => {}
                }
            }
        }
    };
}

filters! {
    Fault = fault::Fault;
    Compress = compress::Compress;
    Fields = fields::FieldEdits;
    #[cfg(test)] Pace = super::pace::Pace;
    #[cfg(test)] Probe = super::probe::Probe;
}
