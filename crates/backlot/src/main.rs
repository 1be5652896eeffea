//! backlot
fn main() {}
