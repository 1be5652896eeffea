//! runs
/// The service.
pub struct Runs {}
