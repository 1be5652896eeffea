//! A whole answer, put together from its streamed pieces.

use futures::StreamExt as _;

use crate::{Block, Error, ErrorKind, Event, EventStream, StopReason, Usage};

/// Largest answer that [`Answer::collect`] puts together, in bytes of text, reasoning and arguments.
pub const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// A complete answer of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The provider's id of the answer.
    pub id: String,
    /// The model that answered, as the provider names it.
    pub model: String,
    /// What was said, in order.
    pub content: Vec<Block>,
    /// Why it ended.
    pub stop: StopReason,
    /// What it took.
    pub usage: Usage,
}

impl Answer {
    /// Reads a stream to its end.
    ///
    /// # Errors
    /// The stream's own error; [`ErrorKind::Protocol`] when it ends without [`Event::Done`] or exceeds
    /// [`MAX_ANSWER_BYTES`].
    pub async fn collect(mut stream: EventStream) -> Result<Self, Error> {
        let mut builder = AnswerBuilder::default();
        while let Some(event) = stream.next().await {
            builder.push(&event?)?;
        }
        builder.finish().ok_or_else(Error::incomplete)
    }

    /// All text of the answer, without reasoning.
    #[must_use]
    pub fn text(&self) -> String {
        let texts = self.content.iter().filter_map(|block| match block {
            Block::Text { text } => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    /// The same answer as a stream would bring it, one event per piece.
    #[must_use]
    pub fn to_events(&self) -> Vec<Event> {
        let mut events = vec![Event::Started {
            id: self.id.clone(),
            model: self.model.clone(),
            usage: Usage { output: 0, reasoning: 0, ..self.usage },
        }];
        for block in &self.content {
            match block {
                Block::Text { text } => events.push(Event::Text { delta: text.clone() }),
                Block::Thinking { text, signature, raw } => {
                    if !text.is_empty() {
                        events.push(Event::Thinking { delta: text.clone() });
                    }
                    events.push(Event::ThinkingDone { signature: signature.clone(), raw: raw.clone() });
                }
                Block::ToolCall { id, name, arguments } => {
                    events.push(Event::ToolCall { id: id.clone(), name: name.clone() });
                    events.push(Event::ToolArguments { id: id.clone(), delta: arguments.clone() });
                    events.push(Event::ToolCallDone { id: id.clone() });
                }
                Block::Image { .. } | Block::ToolResult { .. } => {} // models do not answer with these
            }
        }
        events.push(Event::Done { stop: self.stop.clone(), usage: self.usage });
        events
    }
}

/// Puts an [`Answer`] together, event by event.
#[derive(Debug, Default)]
pub struct AnswerBuilder {
    id: String,
    model: String,
    content: Vec<Block>,
    thinking_open: bool,
    size: usize,
    end: Option<(StopReason, Usage)>,
}

impl AnswerBuilder {
    /// Adds the next event.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] when the answer exceeds [`MAX_ANSWER_BYTES`].
    pub fn push(&mut self, event: &Event) -> Result<(), Error> {
        match event {
            Event::Started { id, model, .. } => {
                self.id.clone_from(id);
                self.model.clone_from(model);
            }
            Event::Text { delta } => {
                self.grow(delta.len())?;
                self.thinking_open = false;
                match self.content.last_mut() {
                    Some(Block::Text { text }) => text.push_str(delta),
                    _ => self.content.push(Block::Text { text: delta.clone() }),
                }
            }
            Event::Thinking { delta } => {
                self.grow(delta.len())?;
                match self.content.last_mut() {
                    Some(Block::Thinking { text, .. }) if self.thinking_open => text.push_str(delta),
                    _ => self.content.push(Block::Thinking { text: delta.clone(), signature: None, raw: None }),
                }
                self.thinking_open = true;
            }
            Event::ThinkingDone { signature, raw } => match self.content.last_mut() {
                Some(Block::Thinking { signature: old_signature, raw: old_raw, .. }) if self.thinking_open => {
                    old_signature.clone_from(signature);
                    old_raw.clone_from(raw);
                    self.thinking_open = false;
                }
                _ => {
                    let (signature, raw) = (signature.clone(), raw.clone());
                    self.content.push(Block::Thinking { text: String::new(), signature, raw });
                }
            },
            Event::ToolCall { id, name } => {
                self.grow(id.len() + name.len())?;
                self.thinking_open = false;
                self.content.push(Block::ToolCall { id: id.clone(), name: name.clone(), arguments: String::new() });
            }
            Event::ToolArguments { id: wanted, delta } => {
                self.grow(delta.len())?;
                let call = self.content.iter_mut().rev().find_map(|block| match block {
                    Block::ToolCall { id, arguments, .. } if id == wanted => Some(arguments),
                    _ => None,
                });
                if let Some(arguments) = call {
                    arguments.push_str(delta);
                }
            }
            Event::ToolCallDone { .. } => {}
            Event::Done { stop, usage } => self.end = Some((stop.clone(), *usage)),
        }
        Ok(())
    }

    /// What has come so far, also of an answer that was broken off.
    #[must_use]
    pub fn content(&self) -> &[Block] {
        &self.content
    }

    /// The answer, if [`Event::Done`] has come.
    #[must_use]
    pub fn finish(self) -> Option<Answer> {
        let (stop, usage) = self.end?;
        Some(Answer { id: self.id, model: self.model, content: self.content, stop, usage })
    }

    fn grow(&mut self, by: usize) -> Result<(), Error> {
        self.size += by;
        if self.size > MAX_ANSWER_BYTES {
            let limit = MAX_ANSWER_BYTES / (1024 * 1024);
            return Err(Error::new(ErrorKind::Protocol, format!("the model's answer exceeds {limit} MiB")));
        }
        Ok(())
    }
}
