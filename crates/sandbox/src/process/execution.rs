//! One program from start to end: its streams, its limits, its end.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    sync::{OwnedMutexGuard, mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    control::Control,
    sandbox::Shared,
    watch::{Breach, Watch},
    wire::{FromInit, ToInit},
};
use crate::{Cause, Command, Error, Exit, Output};

/// Pieces of output that wait for their reader; with [`PIECE`] this bounds what a slow reader costs.
pub(super) const PIECES_IN_FLIGHT: usize = 16;
/// Largest piece of output, in bytes.
const PIECE: usize = 32 * 1024;
/// What a pipe takes at once on an idle host; more input is written by a task.
const PIPE: usize = 64 * 1024;
/// After SIGKILL, how long the init may take to collect the dead before it is killed itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// The running program's ends of the channels to its owner.
pub(super) struct Ends {
    pub(super) started: oneshot::Sender<Result<(), Error>>,
    pub(super) output: mpsc::Sender<Output>,
    pub(super) exit: oneshot::Sender<Exit>,
    pub(super) kill: mpsc::Receiver<()>,
}

/// Runs one program. Ends when the program and everything it left has ended.
pub(super) async fn run(shared: Arc<Shared>, control: OwnedMutexGuard<Control>, command: Command, ends: Ends) {
    let Ends { started, output, exit, kill } = ends;
    let kills_before = shared.group.as_ref().map_or(0, |group| {
        group.reset_peak();
        group.out_of_memory_kills()
    });
    let streams = match start(&shared, &control, &command).await {
        Ok(streams) => streams,
        Err(error) => {
            drop(control);
            let _caller_gone = started.send(Err(error));
            return;
        }
    };
    let begun = Instant::now();
    let _caller_gone = started.send(Ok(()));
    let (too_much, flooded) = oneshot::channel();
    let stdout =
        tokio::spawn(forward(streams.stdout, command.stdout_limit, Some(too_much), output.clone(), Output::Stdout));
    let stderr = tokio::spawn(forward(streams.stderr, command.stderr_limit, None, output, Output::Stderr));
    let fresh = shared.untouched.swap(false, Ordering::Relaxed);
    let memory_limit = shared.group.is_none().then_some(shared.limits.memory_bytes);
    let watch =
        Watch::new(shared.scratch.clone(), shared.init, shared.limits.disk_bytes, memory_limit, fresh.then_some(0));
    let mut supervisor = Supervisor {
        shared: &shared,
        control: &control,
        grace: command.grace,
        deadline: begun.checked_add(command.timeout).unwrap_or_else(far_future),
        kills_before,
        watch: Some(watch),
        cause: None,
        kill_at: None,
        give_up_at: None,
        exit,
    };
    let end = supervisor.supervise(kill, flooded).await;
    let Supervisor { cause, watch, exit, .. } = supervisor;
    let exit_report = report(&shared, end, cause, kills_before, begun, watch.as_ref());
    // The next program may start; the readers below may take as long as the owner does.
    drop(control);
    drop(shared);
    let _ended = tokio::join!(stdout, stderr);
    let _owner_gone = exit.send(exit_report);
}

/// A point in time that no program reaches; `Instant` has no largest value.
fn far_future() -> Instant {
    Instant::now() + Duration::from_secs(30 * 365 * 24 * 3600)
}

struct Streams {
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
}

/// Hands the program to the init and waits until it runs.
async fn start(shared: &Shared, control: &Control, command: &Command) -> Result<Streams, Error> {
    let setup = |error: io::Error| Error::Setup(format!("making pipes for `{}`: {error}", shared.id));
    let (stdin, input) = standard_input(&command.stdin).map_err(setup)?;
    let (stdout, stdout_writer) = output_pipe().map_err(setup)?;
    let (stderr, stderr_writer) = output_pipe().map_err(setup)?;
    if let Some(owner) = shared.owner {
        // Opening /dev/stdout and its like asks for permission on the pipe itself. What a host file or device
        // would be does not occur here: these are always ours, or /dev/null, which stays as it is.
        let (uid, gid) = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
        let input = (!command.stdin.is_empty()).then_some(&stdin);
        for end in [&stdout_writer, &stderr_writer].into_iter().chain(input) {
            rustix::fs::fchown(end, Some(uid), Some(gid)).map_err(|error| setup(error.into()))?;
        }
    }
    let request = ToInit::Exec { argv: command.argv.clone(), env: command.env.clone(), cwd: command.cwd.clone() };
    let gone = |_error: io::Error| Error::Gone(format!("the init of `{}` does not answer", shared.id));
    control.send(&request, &[stdin.as_fd(), stdout_writer.as_fd(), stderr_writer.as_fd()]).await.map_err(gone)?;
    drop((stdin, stdout_writer, stderr_writer));
    if let Some((writer, rest)) = input {
        tokio::spawn(feed(writer, rest));
    }
    match control.receive::<FromInit>().await.map_err(gone)? {
        Some((FromInit::Started, _)) => Ok(Streams { stdout, stderr }),
        Some((FromInit::NotStarted { reason }, _)) => {
            Err(Error::Start { program: command.argv.first().cloned().unwrap_or_default(), reason })
        }
        Some(_) => {
            shared.kill();
            Err(Error::Gone("its init answered out of place".into()))
        }
        None => Err(Error::Gone(format!("`{}` was destroyed or its init has died", shared.id))),
    }
}

fn output_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((pipe::Receiver::from_owned_fd(reader)?, writer))
}

/// Standard input, and what did not fit into its pipe at once.
fn standard_input(input: &Bytes) -> io::Result<(OwnedFd, Option<(pipe::Sender, Bytes)>)> {
    if input.is_empty() {
        return Ok((std::fs::File::open("/dev/null")?.into(), None));
    }
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&writer, true)?;
    let written = match rustix::io::write(&writer, &input[..input.len().min(PIPE)]) {
        Ok(written) => written,
        Err(rustix::io::Errno::AGAIN) => 0,
        Err(error) => return Err(error.into()),
    };
    if written == input.len() {
        return Ok((reader, None));
    }
    Ok((reader, Some((pipe::Sender::from_owned_fd(writer)?, input.slice(written..)))))
}

/// Writes the rest of the input. Ends early when the program closes its end or has ended.
async fn feed(mut writer: pipe::Sender, rest: Bytes) {
    let _reader_gone = writer.write_all(&rest).await;
}

/// Passes one stream on up to a limit and reads away what follows.
async fn forward(
    mut stream: pipe::Receiver,
    limit: u64,
    mut too_much: Option<oneshot::Sender<()>>,
    output: mpsc::Sender<Output>,
    piece_of: fn(Bytes) -> Output,
) {
    let mut left = limit;
    let mut buffer = BytesMut::with_capacity(PIECE);
    loop {
        if buffer.capacity() < PIECE / 8 {
            buffer.reserve(PIECE);
        }
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let mut piece = buffer.split();
        if piece.len() as u64 > left {
            piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            if let Some(too_much) = too_much.take() {
                let _already_ending = too_much.send(());
            }
        }
        left -= piece.len() as u64;
        if !piece.is_empty() {
            // Nobody reads: go on reading away, so that the program does not block for ever.
            let _nobody_reads = output.send(piece_of(piece.freeze())).await;
        }
    }
}

/// How the init reported the end; `None` if it died itself.
struct End {
    code: Option<i32>,
    signal: Option<i32>,
    micros: u64,
    cpu_micros: u64,
}

struct Supervisor<'a> {
    shared: &'a Shared,
    control: &'a Control,
    grace: Duration,
    deadline: Instant,
    kills_before: u64,
    /// Absent while a measurement runs.
    watch: Option<Watch>,
    /// Why we are ending the program, once we are.
    cause: Option<Cause>,
    kill_at: Option<Instant>,
    give_up_at: Option<Instant>,
    exit: oneshot::Sender<Exit>,
}

impl Supervisor<'_> {
    async fn supervise(&mut self, mut kill: mpsc::Receiver<()>, mut flooded: oneshot::Receiver<()>) -> Option<End> {
        let mut owner_gone = false;
        let mut flood_possible = true;
        let mut measuring: Option<tokio::task::JoinHandle<(Watch, Option<Breach>)>> = None;
        let mut next_look = Instant::now() + self.watch.as_ref().map_or(Duration::ZERO, Watch::pause);
        loop {
            let idle = measuring.is_none();
            let undisturbed = self.cause.is_none();
            tokio::select! {
                message = self.control.receive::<FromInit>() => match message {
                    Ok(Some((FromInit::Exited { code, signal, micros, cpu_micros }, _))) => {
                        if let Some(measuring) = measuring && let Ok((watch, _)) = measuring.await {
                            self.watch = Some(watch);
                        }
                        self.look_once_more().await;
                        return Some(End { code, signal, micros, cpu_micros });
                    }
                    Ok(None) => return None,
                    Ok(Some(_)) | Err(_) => {
                        // It says what an init never says: do not trust it any further.
                        self.shared.kill();
                        return None;
                    }
                },
                Some(()) = kill.recv(), if undisturbed => self.terminate(Cause::Killed).await,
                () = self.exit.closed(), if !owner_gone => {
                    owner_gone = true;
                    self.kill(Cause::Killed).await;
                }
                () = sleep_until(self.deadline), if undisturbed => self.terminate(Cause::Timeout).await,
                flood = &mut flooded, if flood_possible => {
                    flood_possible = false;
                    if flood.is_ok() {
                        self.kill(Cause::OutputLimit).await;
                    }
                }
                () = sleep_until(self.kill_at.unwrap_or(self.deadline)), if self.kill_at.is_some() => {
                    self.kill(Cause::Killed).await;
                }
                () = sleep_until(self.give_up_at.unwrap_or(self.deadline)), if self.give_up_at.is_some() => {
                    self.give_up_at = None;
                    self.shared.kill();
                }
                () = sleep_until(next_look), if idle => {
                    if self.out_of_memory() {
                        self.kill(Cause::OutOfMemory).await;
                    }
                    if let Some(mut watch) = self.watch.take() {
                        measuring = Some(tokio::task::spawn_blocking(move || {
                            let breach = watch.measure();
                            (watch, breach)
                        }));
                    } else {
                        next_look = Instant::now() + Duration::from_secs(1);
                    }
                }
                measured = async { match measuring.as_mut() { Some(task) => task.await.ok(), None => None } }, if !idle => {
                    measuring = None;
                    if let Some((watch, breach)) = measured {
                        next_look = Instant::now() + watch.pause();
                        self.watch = Some(watch);
                        match breach {
                            Some(Breach::Disk) => self.kill(Cause::DiskLimit).await,
                            Some(Breach::Memory) => self.kill(Cause::OutOfMemory).await,
                            None => {}
                        }
                    }
                }
            }
        }
    }

    fn out_of_memory(&self) -> bool {
        self.shared.group.as_ref().is_some_and(|group| group.out_of_memory_kills() > self.kills_before)
    }

    /// After the end: a program may pass its disk limit and leave between two looks.
    async fn look_once_more(&mut self) {
        let Some(mut watch) = self.watch.take() else {
            return;
        };
        if self.cause.is_none() && watch.is_near() {
            let looked = tokio::task::spawn_blocking(move || {
                let breach = watch.measure();
                (watch, breach)
            });
            if let Ok((watch, breach)) = looked.await {
                if breach == Some(Breach::Disk) {
                    self.cause = Some(Cause::DiskLimit);
                }
                self.watch = Some(watch);
            }
        } else {
            self.watch = Some(watch);
        }
    }

    /// SIGTERM to everything, SIGKILL after the grace time.
    async fn terminate(&mut self, cause: Cause) {
        self.cause = Some(cause);
        self.kill_at = Some(Instant::now().checked_add(self.grace).unwrap_or_else(far_future));
        let _init_gone = self.control.send(&ToInit::Terminate, &[]).await;
    }

    /// SIGKILL to everything. The first cause stays.
    async fn kill(&mut self, cause: Cause) {
        self.cause.get_or_insert(cause);
        self.kill_at = None;
        self.give_up_at.get_or_insert(Instant::now() + PATIENCE);
        let _init_gone = self.control.send(&ToInit::Kill, &[]).await;
    }
}

fn report(
    shared: &Shared,
    end: Option<End>,
    cause: Option<Cause>,
    kills_before: u64,
    begun: Instant,
    watch: Option<&Watch>,
) -> Exit {
    let killed_for_memory = shared.group.as_ref().is_some_and(|group| group.out_of_memory_kills() > kills_before);
    let peak_memory = match &shared.group {
        Some(group) => group.peak_memory(),
        None => watch.map(|watch| watch.peak_memory).filter(|peak| *peak > 0),
    };
    let by_limit_of_file_size = end.as_ref().is_some_and(|end| end.signal == Some(libc::SIGXFSZ));
    let cause = match (cause, &end) {
        _ if killed_for_memory => Cause::OutOfMemory,
        (Some(cause), _) => cause,
        (None, None) => Cause::Killed,
        (None, Some(_)) if by_limit_of_file_size => Cause::DiskLimit,
        (None, Some(_)) => Cause::Exited,
    };
    match end {
        Some(End { code, signal, micros, cpu_micros }) => Exit {
            cause,
            code,
            signal,
            duration: Duration::from_micros(micros),
            cpu_time: Some(Duration::from_micros(cpu_micros)),
            peak_memory,
        },
        None => Exit {
            cause,
            code: None,
            signal: Some(libc::SIGKILL),
            duration: begun.elapsed(),
            cpu_time: None,
            peak_memory,
        },
    }
}
