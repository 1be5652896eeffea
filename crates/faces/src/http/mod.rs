//! The floor under every face: what is the same for all HTTP, whoever asks for whatever.
//!
//! Every request gets an id, a log line, a place in the metrics and a net for panics; bodies, headers and idle
//! connections have limits. Nothing in here names an agent, a crew or a site, and nothing decides on a wording: a
//! face passes its own envelope for the answers that the floor has to give.
//!
//! Bodies and credentials are never logged; addresses of requests are logged as route patterns, because a path may
//! carry names that its owner keeps private.

pub(crate) mod body;
pub(crate) mod client_address;
pub(crate) mod cors;
pub(crate) mod document;
pub(crate) mod fields;
pub(crate) mod health;
pub(crate) mod host;
pub(crate) mod json;
pub(crate) mod metrics;
pub(crate) mod observe;
pub(crate) mod panic;
pub(crate) mod rate_limit;
mod readiness;
mod serve;
pub(crate) mod sse;

pub use metrics::install as install_metrics;
pub use readiness::Readiness;
pub(crate) use serve::Closing;
pub use serve::{ConnectionLimits, serve};
