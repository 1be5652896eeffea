//! Text to tokens and back, as the weights' own file describes it.

use std::collections::HashSet;

use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::Tokenizer;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

use super::gguf::{Gguf, integer, unsupported};
use super::template::ChatTemplate;
use crate::Error;

/// Token kind of GGUF: steers the conversation and is never text (`LLAMA_TOKEN_TYPE_CONTROL`).
const CONTROL: i64 = 3;

/// Everything about the words of a model.
pub(super) struct Vocabulary {
    tokenizer: Tokenizer,
    control: HashSet<u32>,
    special_texts: Vec<String>,
    longest_token: usize,
    size: usize,
    /// Most tokens of prompt and answer together.
    pub(super) context: usize,
    pub(super) template: ChatTemplate,
}

impl Vocabulary {
    /// Builds the tokenizer and the chat template from the file's metadata.
    ///
    /// `context` is the most tokens that may be used, if fewer than the model takes.
    pub(super) fn load(gguf: &Gguf, context: Option<u32>) -> Result<Self, Error> {
        let architecture = gguf.architecture()?;
        let context = context.map_or(architecture.context, |limit| architecture.context.min(limit as usize));
        let mut tokenizer =
            Tokenizer::from_gguf(&gguf.content).map_err(|error| unsupported(format!("its tokenizer: {error}")))?;
        match gguf.text("tokenizer.ggml.pre").unwrap_or("gpt2") {
            // candle does not know the name and falls back to a tokenizer that puts a space after every special
            // token: " user" instead of "user", another prompt than the model was trained on.
            "smollm" => {
                let steps: Vec<PreTokenizerWrapper> =
                    vec![Digits::new(true).into(), ByteLevel::new(false, false, true).into()];
                tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
                tokenizer
                    .with_normalizer(None::<NormalizerWrapper>)
                    .map_err(|error| unsupported(format!("its tokenizer: {error}")))?;
            }
            "qwen2" | "llama3" | "smaug-bpe" | "lfm2" => {}
            other => {
                return Err(unsupported(format!(
                    "the pre-tokenizer `{other}` is not known; guessing would garble every prompt"
                )));
            }
        }
        let kinds = gguf.array("tokenizer.ggml.token_type");
        let mut control = HashSet::new();
        let mut special_texts = Vec::new();
        let mut longest_token = 1;
        for (id, token) in gguf.array("tokenizer.ggml.tokens").iter().enumerate() {
            let (Ok(token), Ok(id)) = (token.to_string(), u32::try_from(id)) else { continue };
            longest_token = longest_token.max(token.len());
            let kind = kinds.get(id as usize).and_then(integer);
            // candle recognises the kinds 2 to 5 in prompts.
            if kind.is_some_and(|kind| (2..=5).contains(&kind)) && !token.is_empty() {
                special_texts.push(token.clone());
            }
            if kind == Some(CONTROL) {
                control.insert(id);
            }
        }
        control.extend(gguf.token_id("tokenizer.ggml.eos_token_id"));
        control.extend(gguf.token_id("tokenizer.ggml.eot_token_id"));
        let template = gguf.text("tokenizer.chat_template").ok_or_else(|| {
            unsupported("the file has no chat template, so it is not known how to talk to the model".into())
        })?;
        let token_text = |key| gguf.token_id(key).and_then(|id| tokenizer.id_to_token(id)).unwrap_or_default();
        let template = ChatTemplate::new(
            template.to_owned(),
            token_text("tokenizer.ggml.bos_token_id"),
            token_text("tokenizer.ggml.eos_token_id"),
        )?;
        Ok(Self { tokenizer, control, special_texts, longest_token, size: architecture.vocabulary, context, template })
    }

    /// The tokens of a rendered prompt; special tokens written in it are recognised.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|error| unsupported(format!("the prompt cannot be split into tokens: {error}")))?;
        let tokens = encoding.get_ids();
        match tokens.iter().find(|token| **token as usize >= self.size) {
            Some(token) => Err(unsupported(format!("its tokenizer makes the token {token}, which it has not"))),
            None => Ok(tokens.to_vec()),
        }
    }

    /// How many tokens a text of so many bytes has at least.
    pub(super) fn fewest_tokens(&self, bytes: usize) -> usize {
        bytes / self.longest_token
    }

    /// The texts that the tokenizer takes for special tokens wherever they are written.
    pub(super) fn special_texts(&self) -> &[String] {
        &self.special_texts
    }

    /// Whether the token ends the model's turn instead of adding text.
    pub(super) fn ends_turn(&self, token: u32) -> bool {
        self.control.contains(&token)
    }

    /// The bytes a token stands for; a token may be part of a character.
    pub(super) fn bytes(&self, token: u32) -> Vec<u8> {
        let text = self.tokenizer.id_to_token(token).unwrap_or_default();
        let bytes: Option<Vec<u8>> = text.chars().map(byte_of).collect();
        bytes.unwrap_or_else(|| text.into_bytes()) // an added token is written as itself
    }
}

/// The byte behind a letter of the byte-level alphabet (GPT-2's `bytes_to_unicode`): printable bytes stand for
/// themselves, the others are numbered from U+0100.
fn byte_of(letter: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let code = u32::from(letter);
    if let Ok(byte) = u8::try_from(code) {
        return printable(byte).then_some(byte);
    }
    let number = usize::try_from(code.checked_sub(0x100)?).ok()?;
    (0..=255u8).filter(|byte| !printable(*byte)).nth(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_covers_every_byte_once() {
        let mut seen = [0u8; 256];
        for code in 0..0x200 {
            if let Some(byte) = char::from_u32(code).and_then(byte_of) {
                seen[usize::from(byte)] += 1;
            }
        }
        assert_eq!(seen, [1; 256]);
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of('a'), Some(b'a'));
        assert_eq!(byte_of('日'), None);
    }
}
