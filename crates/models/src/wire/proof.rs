//! Carrying one provider's proof of reasoning through another provider's format.
//!
//! When a client of format A talks to a provider of format B, the client must hand B's signatures back on its
//! next turn. Formats have one opaque string for that; B's whole block travels in it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

const PREFIX: &str = "backlot1.";

/// Packs what must come back into one opaque string.
pub(super) fn wrap(signature: Option<&str>, raw: Option<&Value>) -> String {
    let packed = json!([signature, raw]).to_string();
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(packed))
}

/// Unpacks a string of [`wrap`]; `None` for a provider's own strings.
pub(super) fn unwrap(text: &str) -> Option<(Option<String>, Option<Value>)> {
    let packed = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
    let mut value: Value = serde_json::from_slice(&packed).ok()?;
    let raw = Some(value.get_mut(1)?.take()).filter(|raw| !raw.is_null());
    let signature = value.get(0)?.as_str().map(str::to_owned);
    Some((signature, raw))
}
