//! The TUN device: packets in, packets out, never blocking.
#![expect(unsafe_code, reason = "tokio wants a promise about the descriptor it watches")]

use std::{
    io,
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use smoltcp::{
    phy::{self, Checksum, DeviceCapabilities, Medium},
    time::Instant,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::MTU;

/// The server's end of a sandbox's TUN device.
#[derive(Debug)]
pub(super) struct Tun {
    fd: AsyncFd<OwnedFd>,
}

impl Tun {
    /// Takes the descriptor over and makes it non-blocking.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // SAFETY: an `OwnedFd` names the same open descriptor as long as it lives.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { fd })
    }

    /// Reads one packet.
    pub(super) fn poll_receive(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            match guard.try_io(|fd| Ok(rustix::io::read(fd, &mut *buffer)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    /// Sends one packet, or drops it: IP promises no more, and the kernel only refuses a packet when the device
    /// is down or the packet is nonsense.
    pub(super) fn send(&self, packet: &[u8]) {
        if let Err(error) = rustix::io::write(self.fd.get_ref(), packet) {
            tracing::trace!(%error, bytes = packet.len(), "the TUN device refused a packet");
        }
    }
}

/// What smoltcp sees of the device while it handles one packet, or none when it only sends.
pub(super) struct Link<'a> {
    pub(super) tun: &'a Tun,
    pub(super) received: Option<&'a [u8]>,
    /// Room for one packet of [`MTU`] bytes.
    pub(super) scratch: &'a mut [u8],
}

impl phy::Device for Link<'_> {
    type RxToken<'t>
        = Received<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Send<'t>
    where
        Self: 't;

    fn receive(&mut self, _now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let packet = self.received.take()?;
        Some((Received(packet), Send { tun: self.tun, scratch: self.scratch }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Self::TxToken<'_>> {
        Some(Send { tun: self.tun, scratch: self.scratch })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // Received packets never left this machine's memory, so their sums say nothing. The kernel checks ours.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

/// The packet being handled.
pub(super) struct Received<'a>(&'a [u8]);

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Leave to send one packet.
pub(super) struct Send<'a> {
    tun: &'a Tun,
    scratch: &'a mut [u8],
}

impl phy::TxToken for Send<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let packet = &mut self.scratch[..len];
        let result = f(packet);
        self.tun.send(packet);
        result
    }
}
