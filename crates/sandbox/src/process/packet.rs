//! Packets between server, launcher and init: one JSON value and some file descriptors over a
//! `SOCK_SEQPACKET` socket pair. Values too large for one packet travel in a memfd.
//!
//! A closed socket is how each side learns that the other has died, whatever killed it.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Seek, Write},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    cmsg_space,
    fs::{MemfdFlags, memfd_create},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use serde::{Serialize, de::DeserializeOwned};

/// Most descriptors in one packet.
const MAX_FDS: usize = 16;
/// Largest value sent inside the packet itself; well under the default socket buffer of 208 KiB.
const MAX_INLINE: usize = 32 * 1024;
/// Largest value accepted at all. The kernel takes at most 6 MiB of arguments and environment, and JSON
/// escapes a hostile byte with up to six characters.
const MAX_VALUE: u64 = 48 * 1024 * 1024;

const INLINE: u8 = 0;
const IN_MEMFD: u8 = 1;

/// A connected pair, close-on-exec, both ends blocking.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one value with descriptors. Never raises SIGPIPE.
pub(crate) fn send<T: Serialize>(socket: BorrowedFd<'_>, value: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let json = serde_json::to_vec(value)?;
    if json.len() <= MAX_INLINE {
        return send_raw(socket, INLINE, &json, fds);
    }
    let mut file = std::fs::File::from(memfd_create(c"backlot-packet", MemfdFlags::CLOEXEC)?);
    file.write_all(&json)?;
    file.rewind()?;
    let mut with_file = fds.to_vec();
    with_file.push(file.as_fd());
    send_raw(socket, IN_MEMFD, &[], &with_file)
}

fn send_raw(socket: BorrowedFd<'_>, kind: u8, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one packet"));
    }
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no space for descriptors"));
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(&[kind]), IoSlice::new(body)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one value; `None` when the other side is gone.
pub(crate) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut body = vec![0_u8; MAX_INLINE + 1];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut body)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let Some((kind, inline)) = body.get(..received.bytes).and_then(<[u8]>::split_first) else {
        return Ok(None);
    };
    if *kind == INLINE {
        return Ok(Some((serde_json::from_slice(inline)?, fds)));
    }
    let file =
        fds.pop().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a large packet without its file"))?;
    let mut json = Vec::new();
    std::fs::File::from(file).take(MAX_VALUE).read_to_end(&mut json)?;
    Ok(Some((serde_json::from_slice(&json)?, fds)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed setup is a failed test")]
    use super::*;

    #[test]
    fn small_and_large_values_and_descriptors_arrive() {
        let (left, right) = pair().unwrap();
        for size in [0, 10, MAX_INLINE - 2, MAX_INLINE - 1, 5 << 20] {
            let text = "x".repeat(size);
            let (reader, mut writer) = std::io::pipe().unwrap();
            send(left.as_fd(), &text, &[reader.as_fd()]).unwrap();
            drop(reader);
            let (got, fds): (String, _) = receive(right.as_fd()).unwrap().unwrap();
            assert_eq!(got.len(), size);
            assert_eq!(fds.len(), 1);
            writer.write_all(b"through").unwrap();
            drop(writer);
            let mut through = String::new();
            std::fs::File::from(fds.into_iter().next().unwrap()).read_to_string(&mut through).unwrap();
            assert_eq!(through, "through");
        }
        drop(left);
        assert!(receive::<String>(right.as_fd()).unwrap().is_none());
    }
}
