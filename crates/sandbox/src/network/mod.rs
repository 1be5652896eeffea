//! The only way out of a sandbox.
//!
//! A sandbox has a network namespace of its own whose single interface is a TUN device. The other end of that
//! device is a file descriptor in the server, and [`serve`] runs a TCP/IP stack over it in user space: every
//! connection a program opens ends here, is judged by [`Policy::permits`], and is then made again on the host
//! as an ordinary socket. So the rules hold without root and without a packet filter, nothing can connect
//! *into* a sandbox, and names are resolved by the server although the host's resolver may be unreachable.
//!
//! | file | what it does |
//! |---|---|
//! | `policy` | which address may be reached: one pure function |
//! | `interface` | making the device, inside the sandbox's network namespace |
//! | `tun` | the device: reading and writing packets without blocking |
//! | `packet` | reading and building the few packets that are not TCP data |
//! | `stack` | takes packets apart and finds or opens their flow |
//! | `tcp`, `udp` | one flow: the sandbox's end and the host's socket |
//! | `dns` | the name server a sandbox sees |
//!
//! Everything of one sandbox runs in one task, has fixed bounds (the constants below), and yields after a
//! bounded amount of work. Packets come from a hostile program: what cannot be parsed is dropped, never an error.

mod dns;
pub(crate) mod interface;
mod packet;
mod policy;
mod stack;
mod tcp;
#[cfg(test)]
mod tests;
mod tun;
mod udp;

use std::{
    ffi::CStr,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

pub(crate) use dns::host_resolvers;
pub(crate) use policy::Policy;

use crate::Error;

/// The address of the sandbox on its TUN device, with [`PREFIX_V4`]. The default route is the device itself.
pub(crate) const SANDBOX_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Prefix length of [`SANDBOX_V4`].
pub(crate) const PREFIX_V4: u8 = 24;
/// The optional IPv6 address of the sandbox, with [`PREFIX_V6`]. A unique-local source makes programs prefer IPv4.
pub(crate) const SANDBOX_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x15);
/// Prefix length of [`SANDBOX_V6`].
pub(crate) const PREFIX_V6: u8 = 64;
/// The name server as programs in the sandbox see it, for `/etc/resolv.conf`; UDP and TCP, port 53.
pub(crate) const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3));
/// The name of the TUN device inside the sandbox.
pub(crate) const INTERFACE: &CStr = c"eth0";
/// The MTU to set on the TUN device, in bytes. As large as IP allows (rounded), because the link is memory.
pub(crate) const MTU: usize = 65_520;

/// TCP connections of one sandbox at a time, opening ones included. One more is answered with a reset.
const TCP_FLOWS: usize = 512;
/// UDP conversations of one sandbox at a time. One more ends the one that was silent longest.
const UDP_FLOWS: usize = 256;
/// A UDP conversation ends after this much silence.
const UDP_IDLE: Duration = Duration::from_secs(60);
/// How long the host may take to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Packets per second that one sandbox may have looked at, in the long run. Far above honest use, where packets
/// are large; it bounds what a flood of small ones costs the server. The kernel drops or holds back the rest.
const PACKETS_PER_SECOND: u32 = 60_000;

/// A running stack. Dropping it ends every connection of the sandbox and closes the TUN descriptor, which also
/// lets the kernel free the sandbox's network namespace.
#[derive(Debug)]
pub(crate) struct Handle {
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves the network of one sandbox over `tun`, a TUN descriptor opened with `IFF_TUN | IFF_NO_PI`.
///
/// Must be called inside a tokio runtime with time and I/O enabled.
///
/// # Errors
/// [`Error::Setup`] if the descriptor cannot be used asynchronously.
pub(crate) fn serve(tun: OwnedFd, policy: Policy) -> Result<Handle, Error> {
    let tun =
        tun::Tun::new(tun).map_err(|error| Error::Setup(format!("network: cannot use the TUN device: {error}")))?;
    let gateway = gateway_address();
    let stack = stack::Stack::new(tun, policy, gateway);
    Ok(Handle { task: tokio::spawn(stack.run()) })
}

/// [`crate::GATEWAY`] as an address.
fn gateway_address() -> SocketAddr {
    crate::GATEWAY.parse().expect("the constant is an address and a port")
}
