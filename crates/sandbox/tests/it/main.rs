//! The tests of the sandbox drivers, from outside.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod conformance;
mod escape;
mod process;
