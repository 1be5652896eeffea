//! Secrets of an agent: names only, values never leave (seed: "Secrets"; spec/castari.md 14).

pub(crate) mod delete;
pub(crate) mod list;
pub(crate) mod set;
