//! Tests of the whole local model: against a tiny model made here, and against the real weights where they lie.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod answers;
mod arithmetic;
mod real_weights;
pub(super) mod tiny;
