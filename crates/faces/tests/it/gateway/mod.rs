//! The gateway: a client in front, a scripted provider behind, and the books in between.

mod budgets;
mod client_gone;
mod credentials;
mod failures;
mod models;
mod passing;
mod restart;
mod translating;
pub(crate) mod world;
