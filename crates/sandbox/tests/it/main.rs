//! The tests of the sandbox drivers, from outside.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![expect(clippy::disallowed_methods, reason = "tests tell their other processes who they are")]

mod conformance;
mod escape;
mod process;
