//! models
/// The service.
pub struct Models {}
