//! Hints that something changed, sent when a transaction commits.

/// "Look again": a topic and what it is about. On PostgreSQL signals reach every process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// What kind of thing changed, for example `run`.
    pub topic: String,
    /// Which one, usually an identifier.
    pub about: String,
}

/// Signals that a slow listener may be behind before it misses some.
pub(crate) const BACKLOG: usize = 4096;

impl Signal {
    /// The form that travels through PostgreSQL's `NOTIFY`.
    pub(crate) fn encode(&self) -> String {
        format!("{} {}", self.topic, self.about)
    }

    pub(crate) fn decode(text: &str) -> Self {
        let (topic, about) = text.split_once(' ').unwrap_or((text, ""));
        Self { topic: topic.to_owned(), about: about.to_owned() }
    }
}
