//! What Backlot does, without knowing who asks over which wire.
//!
//! One folder per domain; each opens with what it is and keeps its own tables. The folders have an order, and
//! one may use only those to its left:
//!
//! ```text
//! accounts ◄ runs ◄ models ◄ code_agents
//! ```
//!
//! A table has one owner: the `store.rs` of a folder is the only place that names its tables. Only public
//! service methods cross a folder. [`Domain`] is a struct of services and has no methods of its own.
//!
//! Nothing here reads the environment, the system clock or a random source of its own: they arrive in
//! [`Clock`] and [`Ids`], so that tests can move time and resumption is repeatable. To add an operation: a file
//! in its folder whose body is a list of named steps, its queries in `store.rs`, its tests in `tests/it/`.

pub mod accounts;
mod assemble;
mod clock;
pub mod code_agents;
mod error;
mod ids;
pub mod models;
pub mod page;
pub mod runs;
mod text;

pub use assemble::{DataFolder, Parts, assemble, start, stop};
pub use clock::{Clock, SystemClock, Timestamp};
pub use error::{Error, FieldError, Kind};
pub use ids::{Ids, RandomIds};

use std::sync::Arc;

/// All services, wired once at start and shared by every face.
#[derive(Clone)]
pub struct Domain {
    /// Accounts, keys, tokens, secrets, rate limits.
    pub accounts: Arc<accounts::Accounts>,
    /// The run journal and its workers.
    pub runs: Arc<runs::Runs>,
    /// Model providers, metering, the gateway's rules.
    pub models: Arc<models::Models>,
    /// Agents made of code: deploy and invoke.
    pub code_agents: Arc<code_agents::CodeAgents>,
}
