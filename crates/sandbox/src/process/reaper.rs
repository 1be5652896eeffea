//! Takes apart what a dead sandbox leaves on the host, off the path of whoever waits for its end.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, mpsc},
    time::Duration,
};

use super::{cgroup, launcher::wait_gone, slots::Slots};

/// What one sandbox holds.
#[derive(Debug)]
pub(super) struct Remains {
    /// The init; when it has ended so has everything in its process namespace.
    pub(super) init: Option<OwnedFd>,
    pub(super) group: Option<cgroup::Group>,
    /// First id of the sandbox's range.
    pub(super) ids: Option<u32>,
    /// The last descriptor of its network interface. Closing it takes the kernel some ten milliseconds.
    pub(super) interface: Option<OwnedFd>,
}

/// A thread that works through [`Remains`] and, when the driver and all its sandboxes are gone, removes the driver's
/// own group and directory.
#[derive(Debug, Clone)]
pub(super) struct Reaper(mpsc::Sender<Remains>);

impl Reaper {
    pub(super) fn start(slots: Option<Arc<Slots>>, at_end: impl FnOnce() + Send + 'static) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<Remains>();
        std::thread::Builder::new().name("sandbox-reaper".into()).spawn(move || {
            work(&receiver, slots.as_deref());
            at_end();
        })?;
        Ok(Self(sender))
    }

    pub(super) fn take(&self, remains: Remains) {
        let _thread_gone = self.0.send(remains);
    }
}

fn work(receiver: &mpsc::Receiver<Remains>, slots: Option<&Slots>) {
    let mut stuck: Vec<Remains> = Vec::new();
    loop {
        // A process in an uninterruptible system call dies late; it must not hold up the others.
        let next = if stuck.is_empty() {
            receiver.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
        } else {
            receiver.recv_timeout(Duration::from_millis(500))
        };
        let disconnected = matches!(next, Err(mpsc::RecvTimeoutError::Disconnected));
        let mut todo = std::mem::take(&mut stuck);
        todo.extend(next.ok());
        for mut remains in todo {
            if let Some(interface) = remains.interface.take() {
                // In a thread of its own: the kernel can take many interfaces away at the same time.
                let _closed_here_then = std::thread::Builder::new().spawn(move || drop(interface));
            }
            let gone = remains.init.as_ref().is_none_or(|init| {
                wait_gone(init.as_fd(), Duration::from_millis(if disconnected { 2000 } else { 200 })).unwrap_or(true)
            });
            if !gone && !disconnected {
                stuck.push(remains);
                continue;
            }
            if let Some(group) = &remains.group {
                group.remove();
            }
            if let (Some(slots), Some(ids)) = (slots, remains.ids) {
                slots.release(ids);
            }
        }
        if disconnected {
            return;
        }
    }
}
