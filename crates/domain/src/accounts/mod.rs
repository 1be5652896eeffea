//! Accounts: who owns everything, how callers prove who they are, and what they keep secret.
//!
//! Words: an *account* owns all objects of every face. A *caller* is an account together with the credential
//! that proved it and the credential's scopes. An *API key* is `cast_` + 8 public characters + `_` + secret,
//! stored as a MAC. A *secret* is a named value that belongs to something an account owns, encrypted at rest.
//!
//! Tables: `accounts`, `api_keys`, `refresh_tokens`, `secrets`, `rate_windows`.

mod caller;
pub use caller::{Caller, Scope};

/// The service.
pub struct Accounts {}
