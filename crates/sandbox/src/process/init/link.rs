//! The network of a sandbox, from inside: loopback, and one TUN interface whose other end is the server.

use std::{
    ffi::c_int,
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, OwnedFd},
};

use ipnet::IpNet;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::Failure;
use crate::{network, process::wire::Link};

const INTERFACE: &[u8] = b"eth0";

/// Ranges that the kernel itself refuses at once, so that `connect` fails instead of waiting. The server's stack
/// judges every connection again and knows more ranges; these are the ones a program is likely to try.
const REFUSED: [(Ipv4Addr, u8); 8] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Opens the device while this process is still the server's user; belongs to the present network namespace.
pub(super) fn open_device() -> Result<OwnedFd, Failure> {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map(OwnedFd::from)
        .map_err(Failure::lacking("opening /dev/net/tun, which every sandbox with a network needs"))
}

pub(super) fn raise_loopback() -> io::Result<()> {
    let socket = control_socket()?;
    set_flags(&socket, &request(b"lo"), libc::IFF_UP | libc::IFF_RUNNING)
}

/// Makes the interface, gives it its address and routes.
pub(super) fn configure(device: &OwnedFd, link: &Link) -> Result<(), Failure> {
    // The interface is IPv4 only; without this the kernel would give it a link-local address.
    let _no_ipv6_at_all = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    let mut create = request(INTERFACE);
    create.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap_or(0);
    ioctl(device, libc::TUNSETIFF, &mut create).map_err(Failure::lacking("making a TUN interface"))?;
    let set = || -> io::Result<()> {
        let socket = control_socket()?;
        let mut mtu = request(INTERFACE);
        mtu.ifr_ifru.ifru_mtu = c_int::try_from(network::MTU).unwrap_or(1500);
        ioctl(&socket, libc::SIOCSIFMTU, &mut mtu)?;
        set_address(&socket, libc::SIOCSIFADDR, network::SANDBOX_V4)?;
        set_address(&socket, libc::SIOCSIFNETMASK, mask(network::PREFIX_V4))?;
        set_flags(&socket, &request(INTERFACE), libc::IFF_UP | libc::IFF_RUNNING)?;
        for (destination, prefix) in REFUSED {
            route(&socket, destination, prefix, false)?;
        }
        if let Some(IpAddr::V4(gateway)) = link.gateway {
            route(&socket, gateway, 32, true)?;
        }
        for allowed in &link.allow {
            // A loopback network cannot be routed; the server's own loopback is never reached from inside.
            if let IpNet::V4(allowed) = allowed
                && !allowed.network().is_loopback()
                && allowed.prefix_len() > 0
            {
                replace_route(&socket, allowed.network(), allowed.prefix_len())?;
            }
        }
        if link.public {
            route(&socket, Ipv4Addr::UNSPECIFIED, 0, true)?;
        }
        Ok(())
    };
    set().map_err(Failure::at("configuring the network interface"))
}

/// Adds a route over the interface in the place of a refusing one, if there is one for the same range.
fn replace_route(socket: &OwnedFd, destination: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let mut old = route_entry(destination, prefix);
    old.rt_flags |= libc::RTF_REJECT;
    let _not_refused = ioctl(socket, libc::SIOCDELRT, &mut old);
    match route(socket, destination, prefix, true) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Adds one route: over the interface, or refusing.
fn route(socket: &OwnedFd, destination: Ipv4Addr, prefix: u8, open: bool) -> io::Result<()> {
    let mut entry = route_entry(destination, prefix);
    let mut name = *b"eth0\0";
    if open {
        entry.rt_dev = name.as_mut_ptr().cast();
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

fn request(name: &[u8]) -> libc::ifreq {
    // SAFETY: all zero is a valid ifreq.
    #[expect(unsafe_code, reason = "ifreq has no constructor")]
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    request
}

fn set_flags(socket: &OwnedFd, interface: &libc::ifreq, flags: c_int) -> io::Result<()> {
    let mut request = *interface;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap_or(0);
    ioctl(socket, libc::SIOCSIFFLAGS, &mut request)
}

fn set_address(socket: &OwnedFd, what: libc::c_ulong, value: Ipv4Addr) -> io::Result<()> {
    let mut request = request(INTERFACE);
    request.ifr_ifru.ifru_addr = address(value);
    ioctl(socket, what, &mut request)
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
