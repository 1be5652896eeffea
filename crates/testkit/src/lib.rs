//! What tests need: databases on both engines, a scripted model, time and chance, and a whole server with people who
//! call it. For tests only; nothing of the product depends on it.

mod database;
mod launcher;
mod people;
mod postgres;
mod project;
mod raw_archive;
pub mod scripted_model;
mod server;
mod time_and_chance;

pub use database::TestDatabase;
pub use people::{Answer, Person};
pub use project::{ECHO, Project};
pub use raw_archive::RawArchive;
pub use server::{PROVIDER_KEY, Setup, TestServer};
pub use time_and_chance::{TestClock, TestIds};
