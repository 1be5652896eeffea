//! The network of a sandbox, from inside: loopback, and one TUN interface whose other end is the server.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, OwnedFd},
};

use ipnet::IpNet;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::Failure;
use crate::{network, process::wire::Link};

/// Ranges that the kernel itself refuses at once, so that `connect` fails instead of waiting. The server's stack
/// judges every connection again and knows more ranges; these are the ones a program is likely to try.
const REFUSED: [(Ipv4Addr, u8); 7] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
];

/// Makes the interface with its addresses and default routes, and raises loopback. `/dev/net/tun` may be open to root only, so
/// this comes while the process is still the server's user.
pub(super) fn make() -> Result<OwnedFd, Failure> {
    network::interface::open().map_err(Failure::lacking(
        "making a network interface through /dev/net/tun, which every sandbox with a network needs",
    ))
}

/// Raises loopback in a namespace that has nothing else.
pub(super) fn raise_loopback() -> io::Result<()> {
    let socket = control_socket()?;
    // SAFETY: all zero is a valid ifreq.
    #[expect(unsafe_code, reason = "ifreq has no constructor")]
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
    ioctl(&socket, libc::SIOCSIFFLAGS, &mut request)
}

/// Adds what the kernel itself refuses, and the exceptions from that.
pub(super) fn route(link: &Link) -> Result<(), Failure> {
    let set = || -> io::Result<()> {
        let socket = control_socket()?;
        for (destination, prefix) in REFUSED {
            add(&socket, destination, prefix, false)?;
        }
        if let Some(IpAddr::V4(gateway)) = link.gateway {
            add(&socket, gateway, 32, true)?;
        }
        for allowed in &link.allow {
            // A loopback network cannot be routed; the host's own loopback is never reached from inside.
            if let IpNet::V4(allowed) = allowed
                && !allowed.network().is_loopback()
                && allowed.prefix_len() > 0
            {
                replace(&socket, allowed.network(), allowed.prefix_len())?;
            }
        }
        Ok(())
    };
    set().map_err(Failure::at("setting routes"))
}

/// Adds a route over the interface in the place of a refusing one, if there is one for the same range.
fn replace(socket: &OwnedFd, destination: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let mut old = route_entry(destination, prefix);
    old.rt_flags |= libc::RTF_REJECT;
    let _not_refused = ioctl(socket, libc::SIOCDELRT, &mut old);
    match add(socket, destination, prefix, true) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Adds one route: over the interface, or refusing.
fn add(socket: &OwnedFd, destination: Ipv4Addr, prefix: u8, open: bool) -> io::Result<()> {
    let mut entry = route_entry(destination, prefix);
    if open {
        // Read only, although the structure has a mutable pointer.
        entry.rt_dev = network::INTERFACE.as_ptr().cast_mut();
    } else {
        entry.rt_flags |= libc::RTF_REJECT;
    }
    ioctl(socket, libc::SIOCADDRT, &mut entry)
}

fn route_entry(destination: Ipv4Addr, prefix: u8) -> libc::rtentry {
    // SAFETY: all zero is the documented "not given" of every field; pointers are null.
    #[expect(unsafe_code, reason = "rtentry has no constructor")]
    let mut entry: libc::rtentry = unsafe { std::mem::zeroed() };
    entry.rt_dst = address(destination);
    entry.rt_genmask = address(mask(prefix));
    entry.rt_flags = libc::RTF_UP | if prefix == 32 { libc::RTF_HOST } else { 0 };
    entry
}

fn mask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0))
}

fn control_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}

/// An IPv4 address in the form of the old interface calls: `sa_data` is port, then address, in network order.
fn address(value: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(value.octets()) {
        *to = from.cast_signed();
    }
    libc::sockaddr { sa_family: libc::AF_INET.unsigned_abs() as libc::sa_family_t, sa_data: data }
}

/// One interface call. `T` is the structure which that call takes.
fn ioctl<T>(fd: &OwnedFd, call: libc::c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: every caller in this file passes the structure (ifreq or rtentry) that the call is defined for, and
    // it outlives the call.
    #[expect(unsafe_code, reason = "the interface calls have no safe wrapper")]
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), call as libc::Ioctl, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
