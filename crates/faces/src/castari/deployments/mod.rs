//! Deployments of an agent: an addition of ours (spec/castari.md 8.12).

pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod rollback;
