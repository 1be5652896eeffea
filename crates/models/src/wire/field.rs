//! Reading somebody else's JSON field by field, so that every complaint names its place.

use serde_json::{Map, Value};

use super::BadRequest;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    pub(super) value: &'a Value,
    path: String,
}

impl<'a> Field<'a> {
    pub(super) fn root(value: &'a Value) -> Result<Self, BadRequest> {
        let root = Self { value, path: String::new() };
        root.object()?;
        Ok(root)
    }

    /// The member `name`; a `null` counts as absent, as in both vendors' SDKs.
    pub(super) fn get(&self, name: &str) -> Option<Field<'a>> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(Field { value, path: self.join(name) })
    }

    pub(super) fn need(&self, name: &str) -> Result<Field<'a>, BadRequest> {
        self.get(name).ok_or_else(|| BadRequest { field: self.join(name), message: "this field is required".into() })
    }

    pub(super) fn object(&self) -> Result<&'a Map<String, Value>, BadRequest> {
        self.value.as_object().ok_or_else(|| self.wrong("expected an object"))
    }

    pub(super) fn items(&self) -> Result<Vec<Field<'a>>, BadRequest> {
        let items = self.value.as_array().ok_or_else(|| self.wrong("expected an array"))?;
        Ok(items.iter().enumerate().map(|(n, value)| Field { value, path: self.join(&n.to_string()) }).collect())
    }

    pub(super) fn text(&self) -> Result<&'a str, BadRequest> {
        self.value.as_str().ok_or_else(|| self.wrong("expected a string"))
    }

    pub(super) fn flag(&self) -> Result<bool, BadRequest> {
        self.value.as_bool().ok_or_else(|| self.wrong("expected true or false"))
    }

    pub(super) fn number(&self) -> Result<f64, BadRequest> {
        self.value.as_f64().ok_or_else(|| self.wrong("expected a number"))
    }

    /// A count of at least one.
    pub(super) fn positive(&self) -> Result<u32, BadRequest> {
        let number = self.value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        number.ok_or_else(|| self.wrong("expected a whole number of at least 1"))
    }

    pub(super) fn texts(&self) -> Result<Vec<String>, BadRequest> {
        self.items()?.iter().map(|item| item.text().map(str::to_owned)).collect()
    }

    pub(super) fn wrong(&self, message: impl Into<String>) -> BadRequest {
        BadRequest { field: self.path.clone(), message: message.into() }
    }

    /// `type`, which chooses the shape of many objects.
    pub(super) fn kind(&self) -> Result<&'a str, BadRequest> {
        self.object()?;
        self.need("type")?.text()
    }

    /// The complaint about a value of `type` that is not served here.
    pub(super) fn unsupported_kind(&self, kind: &str, known: &str) -> BadRequest {
        let field = self.join("type");
        BadRequest { field, message: format!("`{kind}` is not supported here; use {known}") }
    }

    fn join(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}
