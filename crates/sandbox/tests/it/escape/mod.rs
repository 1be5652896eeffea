//! The escape suite: what a hostile program tries, and that each attempt is contained while a neighbour works on.
//!
//! Every test takes any [`Driver`] and a [`Host`] that says what can be expected of it. The attacker is
//! `probes/probe.c`, compiled on first use. Nothing here looks at how a driver works: the only evidence is what the
//! attacker could do, what is left on the host, and whether the neighbour noticed.

mod files;
mod greed;
mod modes;
mod network;
mod processes;
mod scene;
mod system_calls;
