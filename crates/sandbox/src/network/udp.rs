//! One UDP conversation of a sandbox: datagrams between one port of a program and one address of the world.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    task::{Context, Poll},
    time::Instant,
};

use tokio::{io::ReadBuf, net::UdpSocket};

/// The host's socket of one conversation, connected, so that only the destination can answer.
#[derive(Debug)]
pub(super) struct Flow {
    socket: UdpSocket,
    /// When a datagram last went either way.
    pub(super) active: Instant,
}

impl Flow {
    /// Opens the host's socket.
    ///
    /// # Errors
    /// The system's, also when the destination turns out to be this host.
    pub(super) fn new(destination: SocketAddr, now: Instant) -> io::Result<Self> {
        let any = match destination.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(destination)?;
        Ok(Self { socket: UdpSocket::from_std(socket)?, active: now })
    }

    /// Our own address, as the destination sees it.
    pub(super) fn local_address(&self) -> Option<IpAddr> {
        self.socket.local_addr().ok().map(|address| address.ip())
    }

    /// Sends a datagram, or drops it when the host's buffer is full.
    ///
    /// # Errors
    /// Nobody listens there.
    pub(super) fn send(&mut self, data: &[u8], now: Instant) -> io::Result<()> {
        self.active = now;
        // Not tokio's `try_send`: until its reactor has seen a new socket that says "would block".
        match rustix::net::send(&self.socket, data, rustix::net::SendFlags::DONTWAIT) {
            Err(rustix::io::Errno::CONNREFUSED) => Err(rustix::io::Errno::CONNREFUSED.into()),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Receives a datagram.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        now: Instant,
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let result = self.socket.poll_recv(cx, &mut buffer).map_ok(|()| buffer.filled().len());
        if result.is_ready() {
            self.active = now;
        }
        result
    }
}
