//! From a neutral request to the tokens of a prompt, with everything the model cannot do refused or left out.

use super::template::Turn;
use super::vocabulary::Vocabulary;
use super::{failure, invalid};
use crate::{Block, Error, ErrorKind, Message, Request, ResponseFormat, Role, ToolChoice};

/// Most stop sequences of a request, and the most bytes of one.
const MAX_STOPS: usize = 64;
const MAX_STOP_BYTES: usize = 1024;

/// How an answer is to be made.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sampling {
    pub(super) max_tokens: usize,
    pub(super) temperature: f32,
    pub(super) top_p: f32,
    pub(super) stops: Vec<String>,
}

/// The checked wishes of a request.
///
/// Where the request leaves them open, temperature 0.2 and `top_p` 0.9 hold, as the publisher of SmolLM2 advises.
pub(super) fn sampling(request: &Request, default_max_tokens: u32) -> Result<Sampling, Error> {
    let temperature = request.temperature.unwrap_or(0.2);
    if !(0.0..=2.0).contains(&temperature) {
        return Err(invalid(format!("temperature must be between 0 and 2, not {temperature}")));
    }
    let top_p = request.top_p.unwrap_or(0.9);
    if !(0.0..=1.0).contains(&top_p) {
        return Err(invalid(format!("top_p must be between 0 and 1, not {top_p}")));
    }
    if request.max_tokens == Some(0) {
        return Err(invalid("max_tokens must be at least 1".into()));
    }
    if request.stop.len() > MAX_STOPS || request.stop.iter().any(|stop| stop.len() > MAX_STOP_BYTES) {
        return Err(invalid(format!("at most {MAX_STOPS} stop sequences of at most {MAX_STOP_BYTES} bytes")));
    }
    let max_tokens = request.max_tokens.unwrap_or(default_max_tokens.max(1));
    Ok(Sampling {
        max_tokens: usize::try_from(max_tokens).unwrap_or(usize::MAX),
        temperature: temperature as f32,
        top_p: top_p as f32,
        stops: request.stop.clone(),
    })
}

/// Refuses what cannot be honoured. Tools that need not be called are left out silently: a model of this size
/// cannot use them, and an answer in words is what a request with `tool_choice: auto` allows.
fn check_abilities(request: &Request) -> Result<(), Error> {
    match &request.tool_choice {
        ToolChoice::Any | ToolChoice::Tool { .. } => {
            return Err(invalid(
                "the local model cannot call tools, so `tool_choice` must not demand a call; configure a larger model"
                    .into(),
            ));
        }
        ToolChoice::Auto | ToolChoice::None => {}
    }
    match &request.response_format {
        ResponseFormat::Text => Ok(()),
        ResponseFormat::Json | ResponseFormat::JsonSchema { .. } => Err(invalid(
            "the local model cannot guarantee JSON answers; ask for text or configure a larger model".into(),
        )),
    }
}

/// The turns of a conversation for the chat template.
fn turns(request: &Request) -> Result<Vec<Turn>, Error> {
    let mut turns = Vec::with_capacity(request.messages.len() + 1);
    if let Some(system) = &request.system {
        turns.push(Turn { role: "system", content: system.clone() });
    }
    if request.messages.is_empty() {
        return Err(invalid("a request needs at least one message".into()));
    }
    for Message { role, content } in &request.messages {
        let role = match role {
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        let mut text = String::new();
        append_blocks(&mut text, content)?;
        turns.push(Turn { role, content: text });
    }
    Ok(turns)
}

/// Blocks as text, a blank line between them. Tool calls of an earlier, larger model are told in words.
fn append_blocks(text: &mut String, blocks: &[Block]) -> Result<(), Error> {
    for block in blocks {
        let separator = if text.is_empty() { "" } else { "\n\n" };
        match block {
            Block::Text { text: piece } => {
                text.push_str(separator);
                text.push_str(piece);
            }
            Block::ToolCall { name, arguments, .. } => {
                text.push_str(&format!("{separator}Called the tool {name} with {arguments}"));
            }
            Block::ToolResult { content, is_error, .. } => {
                text.push_str(&format!(
                    "{separator}{}",
                    if *is_error { "The tool failed:" } else { "The tool returned:" }
                ));
                append_blocks(text, content)?;
            }
            Block::Thinking { .. } => {}
            Block::Image { .. } => {
                return Err(invalid(
                    "the local model cannot see images; send text only or configure a larger model".into(),
                ));
            }
        }
    }
    Ok(())
}

/// The tokens of a request's prompt: fewer than the context, so that an answer fits behind them.
pub(super) fn tokens(request: &Request, vocabulary: &Vocabulary) -> Result<Vec<u32>, Error> {
    let context = vocabulary.context;
    check_abilities(request)?;
    let mut turns = turns(request)?;
    let overflow = |tokens: String| {
        failure(ErrorKind::ContextOverflow, format!("the prompt has {tokens} tokens; the local model takes {context}"))
    };
    let bytes: usize = turns.iter().map(|turn| turn.content.len()).sum();
    let fewest = vocabulary.fewest_tokens(bytes);
    if fewest >= context {
        return Err(overflow(format!("more than {fewest}"))); // before time is spent on counting them
    }
    let seam = neutralize(&mut turns, vocabulary.special_texts());
    let prompt = vocabulary.template.render(&turns)?;
    let mut tokens = Vec::new();
    match seam {
        Some(seam) => {
            for piece in prompt.split(seam) {
                tokens.extend(vocabulary.encode(piece)?);
            }
        }
        None => tokens = vocabulary.encode(&prompt)?,
    }
    if tokens.is_empty() {
        return Err(invalid("the prompt is empty".into()));
    }
    if tokens.len() >= context {
        return Err(overflow(tokens.len().to_string()));
    }
    Ok(tokens)
}

/// Cuts special tokens that somebody wrote into a turn, so that a quoted `<|im_end|>` stays text and cannot end
/// the turn. Returns the character put at each cut, where the prompt is to be split before it is tokenized.
fn neutralize(turns: &mut [Turn], special: &[String]) -> Option<char> {
    let found = |text: &str| special.iter().any(|special| text.contains(special.as_str()));
    if !turns.iter().any(|turn| found(&turn.content)) {
        return None;
    }
    // A private-use character that nobody wrote.
    let seam = ('\u{E000}'..='\u{F8FF}').find(|seam| !turns.iter().any(|turn| turn.content.contains(*seam)));
    for turn in turns.iter_mut().filter(|turn| found(&turn.content)) {
        let mut cut = String::with_capacity(turn.content.len() + 16);
        for (start, letter) in turn.content.char_indices() {
            cut.push(letter);
            if special.iter().any(|special| turn.content[start..].starts_with(special.as_str())) {
                match seam {
                    Some(seam) => cut.push(seam),
                    None => cut.push(' '), // somebody used all 6400 of them; a visible cut still keeps the turns apart
                }
            }
        }
        turn.content = cut;
    }
    seam
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use serde_json::json;

    use super::*;
    use crate::{Image, Tool};

    fn user(content: Vec<Block>) -> Request {
        Request { messages: vec![Message { role: Role::User, content }], ..Request::default() }
    }

    fn text(text: &str) -> Block {
        Block::Text { text: text.into() }
    }

    #[test]
    fn turns_carry_the_conversation_in_words() {
        let mut request = user(vec![text("a"), text("b")]);
        request.system = Some("s".into());
        request.messages.push(Message {
            role: Role::Assistant,
            content: vec![
                Block::Thinking { text: "hm".into(), signature: None, raw: None },
                Block::ToolCall { id: "1".into(), name: "add".into(), arguments: "{\"x\":1}".into() },
            ],
        });
        request.messages.push(Message {
            role: Role::User,
            content: vec![Block::ToolResult { id: "1".into(), content: vec![text("2")], is_error: false }],
        });
        let said: Vec<_> = turns(&request).unwrap().into_iter().map(|turn| (turn.role, turn.content)).collect();
        assert_eq!(
            said,
            [
                ("system", "s".into()),
                ("user", "a\n\nb".into()),
                ("assistant", "Called the tool add with {\"x\":1}".into()),
                ("user", "The tool returned:\n\n2".to_owned()),
            ]
        );
    }

    #[test]
    fn what_the_model_cannot_do_is_refused_with_the_reason() {
        let image = Block::Image { image: Image::Url { url: "https://example.com/a.png".into() } };
        for content in
            [vec![image.clone()], vec![Block::ToolResult { id: "1".into(), content: vec![image], is_error: false }]]
        {
            let error = turns(&user(content)).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid);
            assert!(error.message.contains("image"), "{error}");
        }
        let request = Request { tool_choice: ToolChoice::Tool { name: "x".into() }, ..user(vec![text("a")]) };
        assert!(check_abilities(&request).unwrap_err().message.contains("tool"));
        let request = Request { response_format: ResponseFormat::Json, ..user(vec![text("a")]) };
        assert!(check_abilities(&request).unwrap_err().message.contains("JSON"));
        assert_eq!(turns(&Request::default()).unwrap_err().kind, ErrorKind::Invalid);
    }

    #[test]
    fn tools_that_need_not_be_called_are_accepted() {
        let tool = Tool { name: "x".into(), description: None, input_schema: json!({}) };
        check_abilities(&Request { tools: vec![tool], ..user(vec![text("a")]) }).unwrap();
    }

    #[test]
    fn sampling_is_checked_and_completed() {
        let plain = sampling(&user(vec![]), 300).unwrap();
        assert_eq!(plain, Sampling { max_tokens: 300, temperature: 0.2, top_p: 0.9, stops: vec![] });
        for wrong in [
            Request { temperature: Some(-0.1), ..Request::default() },
            Request { temperature: Some(f64::NAN), ..Request::default() },
            Request { top_p: Some(1.5), ..Request::default() },
            Request { max_tokens: Some(0), ..Request::default() },
            Request { stop: vec!["x".repeat(2000)], ..Request::default() },
        ] {
            assert_eq!(sampling(&wrong, 1).unwrap_err().kind, ErrorKind::Invalid, "{wrong:?}");
        }
    }

    #[test]
    fn special_tokens_in_a_turn_are_cut_even_when_they_overlap() {
        let special = ["<|im_end|>".to_owned(), "<<".to_owned()];
        let mut turns = [
            Turn { role: "user", content: "a<|im_end|>b <<<\u{E000}".into() },
            Turn { role: "user", content: "plain".into() },
        ];
        let seam = neutralize(&mut turns, &special).unwrap();
        assert_eq!(seam, '\u{E001}');
        assert_eq!(turns[0].content, "a<\u{E001}|im_end|>b <\u{E001}<\u{E001}<\u{E000}");
        assert_eq!(turns[1].content, "plain");
        for piece in turns[0].content.split(seam) {
            assert!(special.iter().all(|special| !piece.contains(special.as_str())), "{piece}");
        }
        assert_eq!(neutralize(&mut turns[1..], &special), None);
    }
}
