//! The server's end of a packet socket, without blocking.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{Interest, unix::AsyncFd};

use super::packet;

/// A packet socket registered with the runtime.
#[derive(Debug)]
pub(super) struct Control(AsyncFd<OwnedFd>);

impl Control {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        // SAFETY: an OwnedFd names the same open descriptor until it is dropped, which AsyncFd does last.
        #[expect(unsafe_code, reason = "the safe constructor was deprecated for types that could swap descriptors")]
        let registered = unsafe { AsyncFd::register(socket) };
        Ok(Self(registered.map_err(|error| error.into_parts().1)?))
    }

    /// Sends one value. Dropping the future sends either all or nothing.
    pub(super) async fn send<T: Serialize + Sync>(&self, value: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.async_io(Interest::WRITABLE, |socket| packet::send(socket.as_fd(), value, fds)).await
    }

    /// Receives one value; `None` when the other side is gone. May be dropped without losing anything.
    pub(super) async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        self.0.async_io(Interest::READABLE, |socket| packet::receive(socket.as_fd())).await
    }
}
