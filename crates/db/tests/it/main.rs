//! The seam on both engines.

mod group_commit;
mod migrations;
mod opening;
mod signals;
mod statements;
mod transactions;
