//! An answer that a filter makes by itself.

use crate::message::{Fields, Name};

/// An answer in the backend's place. It passes the chain's other filters like a backend's.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// 200..=599.
    pub status: u16,
    /// Fields besides those that every answer has; a challenge, when to come again.
    pub fields: Fields,
    /// The content. Without one the answer says its status in words.
    pub content: Option<Vec<u8>>,
}

impl Answer {
    /// An answer that says its status in words.
    pub fn of_status(status: u16) -> Box<Self> {
        Box::new(Self {
            status,
            ..Self::default()
        })
    }

    /// An answer with content of this type.
    pub fn with_content(status: u16, content_type: &[u8], content: Vec<u8>) -> Box<Self> {
        let mut answer = Self::of_status(status);
        answer.fields.append(Name::ContentType, content_type);
        answer.content = Some(content);
        answer
    }
}
