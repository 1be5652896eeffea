//! Sessions of an agent: several invocations in one sandbox (seed: "Sessions"; spec/castari.md 13).

pub(crate) mod delete;
pub(crate) mod list;
