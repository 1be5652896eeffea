//! The conformance suite: what every driver promises, whatever it is made of.
//!
//! Every case takes a [`Driver`] and knows nothing of how it works. `modes` runs each on the process driver as root and as
//! an ordinary user; another driver gets a `modes` of its own.

mod cases;
mod modes;
pub(crate) mod stage;
