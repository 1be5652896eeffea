//! Whether a request is one that the real provider would take.

use std::collections::HashSet;

use backlot_models::wire::{BadRequest, Incoming, Wire};
use backlot_models::{Block, Role};

/// Reads the request as the provider would, and checks what providers check beyond the shape: every result of a
/// tool answers a call of the turn before it, and every call is answered.
pub(super) fn check(wire: Wire, body: &[u8], counting: bool) -> Result<Incoming, BadRequest> {
    let incoming = wire.decode_request(body)?;
    let bad = |field: String, message: String| Err(BadRequest { field, message });
    if wire == Wire::AnthropicMessages && !counting && incoming.request.max_tokens.is_none() {
        return bad("max_tokens".into(), "this field is required".into());
    }
    let mut open: HashSet<&str> = HashSet::new();
    for (number, message) in incoming.request.messages.iter().enumerate() {
        let place = |block: usize| format!("messages.{number}.content.{block}");
        let mut answered = HashSet::new();
        for (block_number, block) in message.content.iter().enumerate() {
            match (message.role, block) {
                (Role::User, Block::ToolResult { id, .. }) => {
                    if !open.contains(id.as_str()) {
                        return bad(place(block_number), format!("no call `{id}` in the turn before this result"));
                    }
                    if !answered.insert(id.as_str()) {
                        return bad(place(block_number), format!("call `{id}` is answered twice"));
                    }
                }
                (Role::Assistant, Block::ToolCall { id, name, .. }) if id.is_empty() || name.is_empty() => {
                    return bad(place(block_number), "a call without identifier or name".into());
                }
                _ => {}
            }
        }
        if let Some(forgotten) = open.iter().find(|id| !answered.contains(*id)) {
            return bad(format!("messages.{number}"), format!("call `{forgotten}` has no result"));
        }
        let calls = message.content.iter().filter_map(|block| match block {
            Block::ToolCall { id, .. } if message.role == Role::Assistant => Some(id.as_str()),
            _ => None,
        });
        open = calls.collect();
    }
    if let Some(forgotten) = open.iter().next() {
        return bad("messages".into(), format!("call `{forgotten}` has no result"));
    }
    Ok(incoming)
}
