//! Parts of long lists.

/// Which part of a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// At most so many items.
    pub limit: u32,
    /// After so many items.
    pub offset: u64,
}

/// A part of a list with the length of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items asked for.
    pub items: Vec<T>,
    /// How many there are in all.
    pub total: u64,
    /// What was asked for.
    pub window: Window,
}

impl<T> Page<T> {
    /// Whether items follow after this part.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.window.offset.saturating_add(self.items.len() as u64) < self.total
    }

    /// The same part with every item converted.
    #[must_use]
    pub fn map<U>(self, convert: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(convert).collect(), total: self.total, window: self.window }
    }
}
