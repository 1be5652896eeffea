//! One TCP connection of a sandbox: smoltcp speaks with the program, an ordinary socket with the world.
//!
//! The two ends have one fixed buffer per direction between them, so a slow reader on either side slows the
//! writer on the other and memory stays bounded. Each direction ends by itself: a program may close its sending
//! side and still read the answer, and a server may do the same.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use smoltcp::{
    iface::{Config, Interface, PollResult, SocketHandle, SocketSet},
    socket::tcp::{self, State},
    time::Instant,
    wire::{HardwareAddress, IpAddress, IpCidr},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::TcpStream,
};

use super::tun::Link;

/// Whatever smoltcp wants to send at once has been sent before it is asked for its next moment; this keeps a
/// mistake there from turning into a busy loop.
const SOONEST: Duration = Duration::from_millis(1);

/// The host's end of a connection.
#[derive(Debug)]
pub(super) enum Host {
    /// A connection to the destination, or to the gateway.
    World(TcpStream),
    /// The server itself answers: the resolver.
    Resolver(DuplexStream),
}

impl Host {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let result = match self {
            Self::World(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Self::Resolver(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
        };
        result.map_ok(|()| buffer.filled().len())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::World(stream) => Pin::new(stream).poll_write(cx, buffer),
            Self::Resolver(stream) => Pin::new(stream).poll_write(cx, buffer),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::World(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Resolver(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    /// Makes the coming close a reset, so that the world does not take a broken-off upload for a whole one.
    fn break_off(&self) {
        if let Self::World(stream) = self
            && let Err(error) = stream.set_zero_linger()
        {
            tracing::trace!(%error, "a connection ends without a reset");
        }
    }
}

/// One connection. Each has a smoltcp interface of its own, which makes the cost of a packet independent of the
/// number of connections.
pub(super) struct Flow {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    host: Host,
    /// The program has ended its direction and the host's socket knows.
    sent_all: bool,
    /// The host has ended its direction and smoltcp knows.
    received_all: bool,
}

/// Whether a flow goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Poll again when a packet came, the host's socket woke us, or after this long.
    Open(Option<Duration>),
    /// Both ends are closed; forget it.
    Done,
}

impl Flow {
    /// A flow that is about to get the SYN which asked for it. `destination` must be a unicast address; `buffer` is
    /// the room per direction in bytes.
    pub(super) fn new(
        destination: std::net::SocketAddr,
        host: Host,
        buffer: usize,
        now: Instant,
        link: &mut Link<'_>,
    ) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = rand::random();
        let mut interface = Interface::new(config, link, now);
        let address = IpAddress::from(destination.ip());
        // The whole address space is on this link, and the destination's address is ours.
        interface.update_ip_addrs(|addresses| {
            let _cannot_be_full = addresses.push(IpCidr::new(address, 0));
        });
        let mut socket =
            tcp::Socket::new(tcp::SocketBuffer::new(vec![0; buffer]), tcp::SocketBuffer::new(vec![0; buffer]));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        // No timeout: smoltcp's would also end connections that are merely quiet, such as one that waits for a
        // model. The peer is this machine's kernel, which always answers.
        if let Err(error) = socket.listen((address, destination.port())) {
            tracing::debug!(?error, "a connection cannot be taken");
        }
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let socket = sockets.add(socket);
        Self { interface, sockets, socket, host, sent_all: false, received_all: false }
    }

    /// Takes the packet in `link`.
    pub(super) fn take(&mut self, now: Instant, link: &mut Link<'_>) {
        self.interface.poll_ingress_single(now, link, &mut self.sockets);
    }

    /// Moves what can be moved in both directions and sends what there is to send.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, now: Instant, link: &mut Link<'_>) -> Progress {
        if let Err(error) = self.exchange(cx) {
            tracing::trace!(%error, "the host's end of a connection broke");
            self.sockets.get_mut::<tcp::Socket<'_>>(self.socket).abort();
        }
        // Every round sends at least one packet and the window bounds how many there can be.
        while self.interface.poll_egress(now, link, &mut self.sockets) == PollResult::SocketStateChanged {}
        match self.sockets.get::<tcp::Socket<'_>>(self.socket).state() {
            // `Listen`: smoltcp did not accept the SYN. `TimeWait`: nothing gets lost or late on this link.
            State::Closed | State::Listen | State::TimeWait => {
                if !(self.sent_all && self.received_all) {
                    self.host.break_off();
                }
                Progress::Done
            }
            _ => Progress::Open(self.interface.poll_delay(now, &self.sockets).map(|delay| SOONEST.max(delay.into()))),
        }
    }

    fn exchange(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.socket);
        let host = &mut self.host;
        while socket.can_recv() {
            let moved = socket.recv(|data| match host.poll_write(cx, data) {
                Poll::Ready(Ok(count)) => (count, Poll::Ready(Ok(count))),
                other => (0, other),
            });
            match moved {
                Ok(Poll::Ready(Ok(1..))) => {}
                Ok(Poll::Ready(Ok(0))) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(Poll::Ready(Err(error))) => return Err(error),
                Ok(Poll::Pending) | Err(_) => break,
            }
        }
        let ended = matches!(socket.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        if !self.sent_all && ended && !socket.may_recv() {
            match host.poll_shutdown(cx) {
                Poll::Ready(result) => {
                    self.sent_all = true;
                    // "Not connected" only says that the other side was faster.
                    if let Err(error) = result
                        && error.kind() != io::ErrorKind::NotConnected
                    {
                        return Err(error);
                    }
                }
                Poll::Pending => {}
            }
        }
        while !self.received_all && socket.can_send() {
            let moved = socket.send(|room| match host.poll_read(cx, room) {
                Poll::Ready(Ok(count)) => (count, Poll::Ready(Ok(count))),
                other => (0, other),
            });
            match moved {
                Ok(Poll::Ready(Ok(0))) => {
                    self.received_all = true;
                    socket.close();
                }
                Ok(Poll::Ready(Ok(_))) => {}
                Ok(Poll::Ready(Err(error))) => return Err(error),
                Ok(Poll::Pending) | Err(_) => break,
            }
        }
        Ok(())
    }
}
