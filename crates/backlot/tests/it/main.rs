//! Integration tests of the `backlot` binary, one module per feature, in one test program.

mod client;
mod client_prompts;
mod fake_server;
mod killed;
mod killed_deploying;
mod templates;
