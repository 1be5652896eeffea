//! The subcommands, one per file: arguments, the calls they make, and how the result is printed.

pub(crate) mod agents;
pub(crate) mod apikey;
pub(crate) mod completions;
pub(crate) mod deploy;
pub(crate) mod init;
pub(crate) mod invocations;
pub(crate) mod invoke;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod logs;
pub(crate) mod models;
pub(crate) mod secrets;
pub(crate) mod sessions;
pub(crate) mod stop;
pub(crate) mod usage;
pub(crate) mod whoami;

use serde_json::Value;

use super::api::Answer;

/// The server's objects of a list, as `--json` prints them.
fn raw_list<T>(items: &[Answer<T>]) -> Value {
    Value::Array(items.iter().map(|i| i.raw.clone()).collect())
}
