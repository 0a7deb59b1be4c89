//! Configuration: file → validate → model; and `diff(old, new)`.
//!
//! ```text
//! YAML text ──file.rs──▶ what was written ──validate.rs──▶ model (what it means) ──▶ all else
//!             serde, spans                   every fault at once, with line and column
//! ```

pub mod model;
