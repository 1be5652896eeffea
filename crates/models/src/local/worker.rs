//! The queue in front of the model and the thread behind it.
//!
//! The thread exists only while there is something to do: it starts with the first request, holds the weights
//! while requests keep coming, and ends after the idle time, giving all memory back. Requests are answered one
//! after the other in order of arrival: two at once would halve the speed of both and double the memory.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::generation::Job;
use super::gguf::Gguf;
use super::transformer::Weights;
use super::vocabulary::Vocabulary;
use super::{Options, failure};
use crate::{Error, ErrorKind};

/// Below the server's own threads and the agents' sandboxes: inference takes what they leave.
const NICE: i32 = 10;

/// What the callers and the thread share.
pub(super) struct Worker {
    pub(super) path: PathBuf,
    pub(super) options: Options,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// The thread is alive.
    running: bool,
    /// The weights are in memory.
    loaded: bool,
    /// No more requests are taken; the thread ends.
    closed: bool,
    vocabulary: Option<Arc<Vocabulary>>,
    last_use: Option<Instant>,
    /// Smoothed duration of an answer, for telling callers when to come back.
    answer_seconds: f64,
}

impl Worker {
    pub(super) fn new(path: PathBuf, options: Options) -> Arc<Self> {
        Arc::new(Self { path, options, state: Mutex::default(), changed: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each critical section leaves the state consistent, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the weights are in memory now.
    pub(super) fn is_loaded(&self) -> bool {
        self.state().loaded
    }

    /// Whether anything of the model is in memory now.
    pub(super) fn is_resident(&self) -> bool {
        self.state().running
    }

    /// The vocabulary, read if it is not in memory; it is dropped after the idle time. Blocks on the disk.
    pub(super) fn vocabulary(self: &Arc<Self>) -> Result<Arc<Vocabulary>, Error> {
        if let Some(vocabulary) = &self.state().vocabulary {
            return Ok(Arc::clone(vocabulary));
        }
        let vocabulary = Arc::new(Vocabulary::load(&Gguf::open(&self.path)?, self.options.context)?);
        let mut state = self.state();
        state.last_use = Some(Instant::now());
        state.vocabulary = Some(Arc::clone(&vocabulary));
        self.ensure_thread(&mut state)?; // it also watches the idle time
        Ok(vocabulary)
    }

    /// Puts a request into the queue.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] with a time to come back when the queue is full.
    pub(super) fn enqueue(self: &Arc<Self>, job: Job) -> Result<(), Error> {
        let mut state = self.state();
        if state.closed {
            return Err(failure(ErrorKind::Unavailable, "the local model is shut down".into()));
        }
        state.queue.retain(|job| !job.is_abandoned());
        if state.queue.len() >= self.options.queue {
            let seconds = state.answer_seconds.max(1.0) * (state.queue.len() + 1) as f64;
            let mut error = failure(
                ErrorKind::Unavailable,
                format!("the local model is busy: {} requests are waiting already", state.queue.len()),
            );
            error.retry_after = Some(Duration::from_secs(seconds.clamp(1.0, 600.0).ceil() as u64));
            return Err(error);
        }
        self.ensure_thread(&mut state)?;
        state.queue.push_back(job);
        self.changed.notify_all();
        Ok(())
    }

    /// Ends the thread once the current answer is complete; waiting requests get an error.
    pub(super) fn close(&self) {
        let waiting = {
            let mut state = self.state();
            state.closed = true;
            self.changed.notify_all();
            std::mem::take(&mut state.queue)
        };
        for job in waiting {
            job.fail(failure(ErrorKind::Unavailable, "the local model is shut down".into()));
        }
    }

    fn ensure_thread(self: &Arc<Self>, state: &mut State) -> Result<(), Error> {
        if state.running || state.closed {
            return Ok(());
        }
        let worker = Arc::clone(self);
        std::thread::Builder::new()
            .name("local-model".into())
            .spawn(move || worker.run())
            .map_err(|error| failure(ErrorKind::Unavailable, format!("no thread for the local model: {error}")))?;
        state.running = true;
        Ok(())
    }

    /// The life of the thread.
    fn run(self: Arc<Self>) {
        lower_priority();
        let mut engine: Option<Engine> = None;
        while let Some(job) = self.next(&mut engine) {
            if job.is_abandoned() {
                continue;
            }
            let started = Instant::now();
            // A bug in the arithmetic must fail this answer, not every later one.
            let outcome = catch_unwind(AssertUnwindSafe(|| self.answer(&mut engine, &job)));
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(error)) => job.fail(error),
                Err(_) => {
                    engine = None;
                    tracing::error!("the local model panicked while answering; its weights are loaded anew");
                    job.fail(failure(
                        ErrorKind::Protocol,
                        "the local model failed inside; see the server's log".into(),
                    ));
                }
            }
            let mut state = self.state();
            let seconds = started.elapsed().as_secs_f64();
            state.answer_seconds =
                if state.answer_seconds == 0.0 { seconds } else { 0.7 * state.answer_seconds + 0.3 * seconds };
            state.loaded = engine.is_some();
            state.last_use = Some(Instant::now());
        }
    }

    /// Waits for the next request; none when the thread is to end. What the thread holds is dropped before it
    /// says so, so that the next thread does not find the memory still taken.
    fn next(&self, engine: &mut Option<Engine>) -> Option<Job> {
        let mut state = self.state();
        loop {
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            let idle = state.last_use.map_or(Duration::ZERO, |last| last.elapsed());
            let expired = state.last_use.is_some() && idle >= self.options.idle;
            if !state.closed && !expired {
                let rest = self.options.idle.saturating_sub(idle);
                state = self.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let vocabulary = state.vocabulary.take();
            if engine.is_none() && vocabulary.is_none() {
                state.running = false;
                return None;
            }
            state.loaded = false;
            drop(state);
            drop((engine.take(), vocabulary));
            release_memory();
            tracing::debug!("the local model was unloaded");
            state = self.state(); // a request may have come meanwhile
        }
    }

    fn answer(self: &Arc<Self>, engine: &mut Option<Engine>, job: &Job) -> Result<(), Error> {
        let engine = match engine {
            Some(engine) => engine,
            None => {
                let loaded = Engine::load(self)?;
                self.state().loaded = true;
                engine.insert(loaded)
            }
        };
        let vocabulary = self.vocabulary()?;
        engine.pool.install(|| job.run(&engine.weights, &vocabulary));
        Ok(())
    }
}

/// The weights and the threads that compute with them.
struct Engine {
    weights: Weights,
    pool: rayon::ThreadPool,
}

impl Engine {
    fn load(worker: &Worker) -> Result<Self, Error> {
        let started = Instant::now();
        let threads = worker.options.effective_threads();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("local-model-{index}"))
            .start_handler(|_| lower_priority())
            .build()
            .map_err(|error| failure(ErrorKind::Unavailable, format!("no threads for the local model: {error}")))?;
        let mut gguf = Gguf::open(&worker.path)?;
        let weights = pool.install(|| Weights::load(&mut gguf))?;
        tracing::debug!(threads, milliseconds = started.elapsed().as_millis() as u64, "the local model was loaded");
        Ok(Self { weights, pool })
    }
}

/// Lets everything else on the machine go first.
fn lower_priority() {
    // On Linux this is a property of the thread. A host that refuses only costs politeness.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the local model's thread keeps the usual priority");
    }
}

/// Returns freed memory to the system: the C library keeps the many small pieces of a vocabulary otherwise.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a call into the C library")]
fn release_memory() {
    // SAFETY: takes no pointers and may be called from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn release_memory() {}
