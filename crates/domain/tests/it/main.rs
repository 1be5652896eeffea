//! The domain on both engines. One binary, so that it is linked once.

mod accounts;
mod models;
mod runs;
