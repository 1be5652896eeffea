//! The castari face against a whole server.

mod agents;
mod deployments;
mod document;
mod invocations;
mod keys;
mod limits;
mod released_client;
mod secrets_and_sessions;
mod streams;
mod usage;
mod validation;
mod walls;

/// Where the face's API begins.
const API: &str = "/castari/api/v1";

/// An address of the face.
fn api(path: &str) -> String {
    format!("{API}{path}")
}
