//! The repository keeps its rules, and each rule can be broken.

mod repository;
mod rules;
mod scanner;
