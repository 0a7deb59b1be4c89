//! Static files: from a request to a file, ranges of it, and the fields that go with them.
//!
//! ```text
//! RequestHead ─path─▶ Name ─open─▶ File + Meta ─plan─▶ Answer ─▶ engine (read, sendfile)
//!              pure          I/O                 pure
//! ```
//!
//! **Nothing outside the root is ever opened.** A name's segments are decoded once, and none may
//! be `..` or hold a slash; then the kernel itself resolves it beneath the root's descriptor
//! (`openat2`, RESOLVE_BENEATH), so that no link and no race leads out. Where a kernel lacks that,
//! each segment is opened without following links, and links then are not followed at all. Files
//! whose name begins with a dot are not served, but for `.well-known` (RFC 8615).
//!
//! Opening a file may wait for its disk, and is done by the worker, as nginx does it.

mod conditional;
mod encoding;
mod listing;
mod mime;
mod open;
mod path;
mod plan;
mod range;
mod site;
#[cfg(test)]
mod tests;

pub use encoding::acceptable as acceptable_codings;
pub use plan::{Answer, Body, Part};
pub use site::Site;
