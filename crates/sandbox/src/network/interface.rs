//! Making the TUN device, in the network namespace of the calling thread.
//!
//! Called once by the first process of a sandbox, between making its namespaces and giving up its capabilities.
//! Allocates nothing, so that it may also run between `fork` and `exec`.
#![expect(unsafe_code, reason = "interfaces and routes are made by ioctl, which takes C structures")]

use std::{
    ffi::CStr,
    io, mem,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use super::{INTERFACE, MTU, PREFIX_V4, PREFIX_V6, SANDBOX_V4, SANDBOX_V6};

const TUN: &CStr = c"/dev/net/tun";

/// Brings the loopback interface up, makes the TUN device with its addresses and default routes, and returns the
/// descriptor that [`super::serve`] wants. A host without IPv6 gets a device without IPv6.
///
/// # Errors
/// The system's: `/dev/net/tun` is missing or forbidden, or the caller has no `CAP_NET_ADMIN` in its namespace.
pub(crate) fn open() -> io::Result<OwnedFd> {
    // SAFETY: the path is a C string.
    let tun = owned(unsafe { libc::open(TUN.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) })?;
    let mut request = named(INTERFACE);
    request.ifr_ifru.ifru_flags = flags(libc::IFF_TUN | libc::IFF_NO_PI);
    ioctl(&tun, libc::TUNSETIFF, &mut request)?;

    let v4 = socket(libc::AF_INET)?;
    raise(&v4, c"lo")?;
    request.ifr_ifru.ifru_mtu = libc::c_int::try_from(MTU).map_err(|_| io::ErrorKind::InvalidInput)?;
    ioctl(&v4, libc::SIOCSIFMTU, &mut request)?;
    request.ifr_ifru.ifru_addr = address_v4(SANDBOX_V4);
    ioctl(&v4, libc::SIOCSIFADDR, &mut request)?;
    request.ifr_ifru.ifru_netmask = address_v4(Ipv4Addr::from(u32::MAX << (32 - PREFIX_V4)));
    ioctl(&v4, libc::SIOCSIFNETMASK, &mut request)?;
    raise(&v4, INTERFACE)?;
    let mut name = request.ifr_name;
    // SAFETY: all zeros is a valid value of this C structure.
    let mut route: libc::rtentry = unsafe { mem::zeroed() };
    route.rt_dst = address_v4(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = address_v4(Ipv4Addr::UNSPECIFIED);
    route.rt_flags = libc::RTF_UP;
    route.rt_dev = name.as_mut_ptr();
    ioctl(&v4, libc::SIOCADDRT, &mut route)?;

    ioctl(&v4, libc::SIOCGIFINDEX, &mut request)?;
    // SAFETY: SIOCGIFINDEX has written this field of the union.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    if let Err(error) = add_v6(index)
        && !matches!(
            error.raw_os_error(),
            Some(libc::EAFNOSUPPORT | libc::EACCES | libc::EPERM | libc::ENODEV | libc::EOPNOTSUPP)
        )
    {
        return Err(error);
    }
    Ok(tun)
}

fn add_v6(index: libc::c_int) -> io::Result<()> {
    add_address_v6(index, SANDBOX_V6, PREFIX_V6)?;
    let v6 = socket(libc::AF_INET6)?;
    let anywhere = octets_v6(Ipv6Addr::UNSPECIFIED);
    let mut route = RouteV6 {
        destination: anywhere,
        source: anywhere,
        gateway: anywhere,
        kind: 0,
        destination_length: 0,
        source_length: 0,
        metric: 1,
        info: 0,
        flags: u32::from(libc::RTF_UP),
        interface: index,
    };
    ioctl(&v6, libc::SIOCADDRT, &mut route)
}

/// Gives an interface an IPv6 address that counts at once. The old interface calls cannot do that: theirs stays
/// tentative for some milliseconds, in which connections would be made from another address.
fn add_address_v6(index: libc::c_int, address: Ipv6Addr, prefix: u8) -> io::Result<()> {
    let length = u32::try_from(mem::size_of::<AddressRequest>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let request = AddressRequest {
        header: libc::nlmsghdr {
            nlmsg_len: length,
            nlmsg_type: libc::RTM_NEWADDR,
            nlmsg_flags: (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE) as u16,
            nlmsg_seq: 1,
            nlmsg_pid: 0,
        },
        family: libc::AF_INET6 as u8,
        prefix,
        flags: libc::IFA_F_NODAD as u8,
        scope: libc::RT_SCOPE_UNIVERSE,
        index: index.cast_unsigned(),
        attribute_length: 4 + 16,
        attribute: libc::IFA_ADDRESS,
        address: address.octets(),
    };
    // SAFETY: takes no pointers.
    let socket =
        owned(unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) })?;
    // SAFETY: a plain C structure without padding, alive for the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), (&raw const request).cast(), mem::size_of_val(&request), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    // Header, then the negative error number, or zero.
    let mut answer = [0_u8; 1024];
    // SAFETY: writes at most the length of the buffer.
    let length = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// The kernel's `nlmsghdr`, `ifaddrmsg` and one `rtattr`, in a row.
#[repr(C)]
struct AddressRequest {
    header: libc::nlmsghdr,
    family: u8,
    prefix: u8,
    flags: u8,
    scope: u8,
    index: u32,
    attribute_length: u16,
    attribute: u16,
    address: [u8; 16],
}

/// The kernel's `struct in6_rtmsg`; that of the `libc` crate has private fields.
#[repr(C)]
struct RouteV6 {
    destination: libc::in6_addr,
    source: libc::in6_addr,
    gateway: libc::in6_addr,
    kind: u32,
    destination_length: u16,
    source_length: u16,
    metric: u32,
    info: libc::c_ulong,
    flags: u32,
    interface: libc::c_int,
}

fn raise(socket: &OwnedFd, name: &CStr) -> io::Result<()> {
    let mut request = named(name);
    request.ifr_ifru.ifru_flags = flags(libc::IFF_UP | libc::IFF_RUNNING);
    ioctl(socket, libc::SIOCSIFFLAGS, &mut request)
}

fn flags(flags: libc::c_int) -> libc::c_short {
    libc::c_short::try_from(flags).expect("interface flags fit their field")
}

fn named(name: &CStr) -> libc::ifreq {
    // SAFETY: all zeros is a valid value of this C structure.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request
}

fn address_v4(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: both are plain C structures of the same size, and every byte pattern is valid in them.
    unsafe {
        mem::transmute(libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
            sin_zero: [0; 8],
        })
    }
}

fn octets_v6(address: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr { s6_addr: address.octets() }
}

fn socket(family: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    owned(unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })
}

fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn ioctl<T>(fd: &OwnedFd, request: impl TryInto<libc::Ioctl>, argument: &mut T) -> io::Result<()> {
    let request = request.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: every caller passes the structure that the request takes, alive for the call.
    if unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Brings the loopback interface of the calling thread's namespace up and gives it more addresses, for tests in which
/// it stands for the world.
#[cfg(test)]
pub(super) fn raise_loopback(address: Ipv4Addr, address_v6: Ipv6Addr) -> io::Result<()> {
    let socket = socket(libc::AF_INET)?;
    raise(&socket, c"lo")?;
    let mut request = named(c"lo:1");
    request.ifr_ifru.ifru_addr = address_v4(address);
    ioctl(&socket, libc::SIOCSIFADDR, &mut request)?;
    let mut request = named(c"lo");
    ioctl(&socket, libc::SIOCGIFINDEX, &mut request)?;
    // SAFETY: SIOCGIFINDEX has written this field of the union.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    add_address_v6(index, address_v6, 128)
}
