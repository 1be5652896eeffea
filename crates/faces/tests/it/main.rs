//! Faces against real servers: a router on a port, a domain behind it, a scripted provider behind that.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]
#![expect(clippy::disallowed_methods, reason = "clients that know nothing of the server")]

mod castari;
mod caster;
mod code_agents;
mod floor;
mod gateway;
mod gateway_compat;
