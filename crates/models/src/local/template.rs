//! The chat template of the weights: from turns to the one text the model continues.

use minijinja::{Environment, ErrorKind as TemplateErrorKind, context};
use serde::Serialize;

use super::gguf::unsupported;
use super::{failure, invalid};
use crate::{Error, ErrorKind};

const NAME: &str = "chat";

/// A parsed chat template.
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

/// One turn as templates know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Turn {
    /// `system`, `user` or `assistant`.
    pub(super) role: &'static str,
    /// What is said.
    pub(super) content: String,
}

impl ChatTemplate {
    /// Parses the template with the settings and helpers that templates are written for.
    pub(super) fn new(source: String, bos_token: String, eos_token: String) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(TemplateErrorKind::InvalidOperation, message))
        });
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| unsupported(format!("its chat template cannot be parsed: {error}")))?;
        Ok(Self { environment, bos_token, eos_token })
    }

    /// The prompt up to where the model's turn begins.
    ///
    /// # Errors
    /// What the template refuses (for example an order of roles) is [`ErrorKind::Invalid`].
    pub(super) fn render(&self, turns: &[Turn]) -> Result<String, Error> {
        let values = context! {
            messages => turns,
            add_generation_prompt => true,
            bos_token => self.bos_token,
            eos_token => self.eos_token,
        };
        self.environment.get_template(NAME).and_then(|template| template.render(values)).map_err(|error| {
            match error.kind() {
                TemplateErrorKind::InvalidOperation => {
                    invalid(format!("the model's chat template refuses this conversation: {error}"))
                }
                _ => failure(ErrorKind::Unavailable, format!("the model's chat template failed: {error}")),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;

    /// The template inside SmolLM2-135M-Instruct.
    const SMOLLM2: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn turn(role: &'static str, content: &str) -> Turn {
        Turn { role, content: content.into() }
    }

    #[test]
    fn without_a_system_prompt_the_template_adds_its_own() {
        let template = ChatTemplate::new(SMOLLM2.into(), String::new(), String::new()).unwrap();
        assert_eq!(
            template.render(&[turn("user", "Hi")]).unwrap(),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
             <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn a_given_system_prompt_replaces_it_and_all_turns_follow() {
        let template = ChatTemplate::new(SMOLLM2.into(), String::new(), String::new()).unwrap();
        let turns = [turn("system", "Be {{brief}}."), turn("user", "Hi"), turn("assistant", "Yo"), turn("user", "?")];
        assert_eq!(
            template.render(&turns).unwrap(),
            "<|im_start|>system\nBe {{brief}}.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
             <|im_start|>assistant\nYo<|im_end|>\n<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn python_methods_work_and_a_refusal_is_the_callers_error() {
        let source = "{{ bos_token }}{% if messages[0].role == 'assistant' %}{{ raise_exception('user first') }}\
                      {% endif %}{{ messages[0]['content'].strip().upper() }}{{ eos_token }}";
        let template = ChatTemplate::new(source.into(), "<s>".into(), "</s>".into()).unwrap();
        assert_eq!(template.render(&[turn("user", " hi ")]).unwrap(), "<s>HI</s>");
        let error = template.render(&[turn("assistant", "x")]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.contains("user first"), "{error}");
    }

    #[test]
    fn a_broken_template_is_refused_at_once() {
        let error = ChatTemplate::new("{% for %}".into(), String::new(), String::new()).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Unavailable);
    }
}
