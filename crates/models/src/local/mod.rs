//! The local model: SmolLM2-135M-Instruct, computed in this process on the CPU.
//!
//! It is the default where no provider is configured, so that everything can be tried without a key. What it is
//! good for and what not stands in [`catalog`]; [`pull()`](pull::pull) fetches its weights; [`LocalModel`] answers requests.
//!
//! The way of a request: [`prompt`] checks it and makes tokens of it (by [`template`] and [`vocabulary`]),
//! [`worker`] queues it, [`generation`] computes the answer token by token ([`transformer`], [`sampler`]), and
//! [`text_stream`] makes text of the tokens.
//!
//! To serve another model: an entry in [`catalog`]; if its architecture is not Llama, another forward pass
//! beside [`transformer`].

pub mod catalog;
mod generation;
mod gguf;
mod kernels;
mod prompt;
pub mod pull;
mod sampler;
mod template;
#[cfg(test)]
mod tests;
mod text_stream;
mod transformer;
mod vocabulary;
mod worker;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::{Error, ErrorKind, EventStream, Model, Request};
use generation::Job;
use worker::Worker;

/// The provider id of local models: `local/smollm2-135m-instruct`.
pub const PROVIDER: &str = "local";

/// How a local model is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads that compute; none means all cores but one, at least one.
    pub threads: Option<usize>,
    /// Most tokens of prompt and answer together; none means as many as the model takes (8192).
    pub context: Option<u32>,
    /// Most tokens of an answer when the request does not say.
    pub default_max_tokens: u32,
    /// Requests that may wait while another is answered; further ones get [`ErrorKind::Unavailable`].
    pub queue: usize,
    /// After this time without a request the weights leave the memory.
    pub idle: Duration,
    /// How long reading a prompt may take (about 100 tokens a second and thread).
    pub prompt_timeout: Duration,
    /// Fixed randomness, for tests; none draws anew for each request.
    pub seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: None,
            context: None,
            default_max_tokens: 1024,
            queue: 16,
            idle: Duration::from_mins(5),
            prompt_timeout: Duration::from_mins(2),
            seed: None,
        }
    }
}

impl Options {
    /// The number of threads that will compute.
    #[must_use]
    pub fn effective_threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // As many threads as cores are slower than one thread as soon as anything else runs.
        self.threads.unwrap_or(cores.saturating_sub(1)).clamp(1, cores.max(1))
    }
}

/// A model whose weights are a GGUF file on this machine.
///
/// Nothing is in memory until the first request, and nothing after [`Options::idle`] without one. Requests are
/// answered one at a time. Dropping the answer's stream stops the computation at the next token.
///
/// Limits: no images and no enforced JSON (both [`ErrorKind::Invalid`]); tools are accepted but never called,
/// and a `tool_choice` that demands a call is [`ErrorKind::Invalid`]; thinking settings have no effect.
pub struct LocalModel {
    name: String,
    worker: Arc<Worker>,
}

impl LocalModel {
    /// A model answering under `name` from the weights at `path` (as [`pull::pull`] leaves them).
    ///
    /// Cheap: only the beginning of the file is read. Whether the whole file can be run shows at the first
    /// request, whose error says why.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no file, [`ErrorKind::Unavailable`] when it is no GGUF file.
    pub fn load(path: &Path, name: impl Into<String>, options: Options) -> Result<Self, Error> {
        let mut magic = [0u8; 4];
        std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic)).map_err(
            |error| {
                let kind = if error.kind() == std::io::ErrorKind::NotFound {
                    ErrorKind::NotFound
                } else {
                    ErrorKind::Unavailable
                };
                let path = path.display();
                failure(kind, format!("the local model's weights {path} cannot be read: {error}. Fetch them with `backlot models pull`"))
            },
        )?;
        if &magic != b"GGUF" {
            return Err(failure(ErrorKind::Unavailable, format!("{} is not a GGUF file", path.display())));
        }
        Ok(Self { name: name.into(), worker: Worker::new(path.to_owned(), options) })
    }

    /// The exact number of input tokens the request would have.
    ///
    /// # Errors
    /// As [`Model::call`] for requests that cannot be answered.
    pub async fn count_tokens(&self, request: &Request) -> Result<u64, Error> {
        Ok(self.tokens(request).await?.len() as u64)
    }

    /// Whether the weights are in memory now.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.worker.is_loaded()
    }

    /// Whether anything of the model, weights or vocabulary, is in memory now.
    #[must_use]
    pub fn is_resident(&self) -> bool {
        self.worker.is_resident()
    }

    async fn tokens(&self, request: &Request) -> Result<Vec<u32>, Error> {
        let worker = Arc::clone(&self.worker);
        let request = request.clone();
        let tokenized = tokio::task::spawn_blocking(move || {
            let vocabulary = worker.vocabulary()?;
            prompt::tokens(&request, &vocabulary)
        });
        match tokenized.await {
            Ok(tokens) => tokens,
            Err(error) => Err(failure(ErrorKind::Unavailable, format!("the prompt could not be read: {error}"))),
        }
    }
}

impl Drop for LocalModel {
    fn drop(&mut self) {
        self.worker.close();
    }
}

#[async_trait::async_trait]
impl Model for LocalModel {
    /// Queues the request and waits for its turn; the stream begins when the model begins to read the prompt.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] and [`ErrorKind::ContextOverflow`] for requests that can never be answered;
    /// [`ErrorKind::Unavailable`] when too many wait (with a time to come back) or the weights cannot be run.
    async fn call(&self, request: Request) -> Result<EventStream, Error> {
        let sampling = prompt::sampling(&request, self.worker.options.default_max_tokens)?;
        let prompt = self.tokens(&request).await?;
        let (events, mut answer) = tokio::sync::mpsc::unbounded_channel();
        self.worker.enqueue(Job {
            model: self.name.clone(),
            prompt,
            sampling,
            seed: self.worker.options.seed.unwrap_or_else(rand::random),
            prompt_deadline: self.worker.options.prompt_timeout,
            events,
        })?;
        let first = match answer.recv().await {
            Some(Ok(event)) => event,
            Some(Err(error)) => return Err(error),
            None => return Err(failure(ErrorKind::Unavailable, "the local model ended without an answer".into())),
        };
        let mut first = Some(Ok(first));
        Ok(Box::pin(futures::stream::poll_fn(move |context| match first.take() {
            Some(event) => std::task::Poll::Ready(Some(event)),
            None => answer.poll_recv(context),
        })))
    }
}

fn failure(kind: ErrorKind, message: String) -> Error {
    Error { kind, message, status: None, retry_after: None }
}

fn invalid(message: String) -> Error {
    failure(ErrorKind::Invalid, message)
}
