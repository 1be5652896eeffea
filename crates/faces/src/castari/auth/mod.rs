//! The account behind a credential (spec/castari.md 4.3).

pub(crate) mod me;
