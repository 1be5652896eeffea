//! Parts of lists: `?limit=&offset=` and the `meta` of the answer (seed: "Pagination"; spec/castari.md 7).

use backlot_domain::page::{Page, Window};
use serde::Serialize;

use crate::http::fields::{Fields, FromFields, integer};

/// Which part of a list is asked for.
#[derive(Debug, Clone, Copy, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// At most so many items.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<u32>,
    /// After so many items.
    #[param(minimum = 0, default = 0)]
    offset: Option<u32>,
}

impl FromFields for PageQuery {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            limit: fields.optional("limit", integer(1, 100)),
            offset: fields.optional("offset", integer(0, u32::MAX)),
        }
    }
}

impl PageQuery {
    pub(crate) fn window(self) -> Window {
        Window { limit: self.limit.unwrap_or(20), offset: u64::from(self.offset.unwrap_or(0)) }
    }
}

/// Where a part stands in its list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Meta {
    /// Length of the whole list.
    total: u64,
    /// What was asked for.
    limit: u32,
    /// What was asked for.
    offset: u64,
    /// Whether items follow.
    has_more: bool,
}

impl<T> From<&Page<T>> for Meta {
    fn from(page: &Page<T>) -> Self {
        Self { total: page.total, limit: page.window.limit, offset: page.window.offset, has_more: page.has_more() }
    }
}
