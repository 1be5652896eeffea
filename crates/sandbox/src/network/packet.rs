//! Reading the headers that decide about a packet, and building the few packets that are not TCP data.

use std::net::{IpAddr, SocketAddr};

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        IpAddress, IpProtocol, IpRepr, IpVersion, Ipv4Packet, Ipv6Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
        UDP_HEADER_LEN, UdpPacket, UdpRepr, checksum,
    },
};

use super::MTU;

const HOP_LIMIT: u8 = 64;

/// The headers of one packet from the sandbox.
#[derive(Debug)]
pub(super) struct Packet<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) content: Content<'a>,
}

/// What a packet carries.
#[derive(Debug)]
pub(super) enum Content<'a> {
    Tcp(Segment),
    Udp(&'a [u8]),
}

/// The fields of a TCP header that matter outside a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) syn: bool,
    pub(super) ack: bool,
    pub(super) rst: bool,
    sequence: TcpSeqNumber,
    acknowledged: TcpSeqNumber,
    /// What a reset must acknowledge: payload, SYN and FIN.
    length: usize,
}

/// Takes a packet apart. `None` for whatever is not a whole, well-formed TCP or UDP packet (fragments included:
/// the MTU leaves no reason to make any).
pub(super) fn parse(bytes: &[u8]) -> Option<Packet<'_>> {
    bytes.first()?; // smoltcp wants a first byte to look at
    let (source, destination, protocol, payload) = match IpVersion::of_packet(bytes).ok()? {
        IpVersion::Ipv4 => {
            let ip = Ipv4Packet::new_checked(bytes).ok()?;
            if ip.more_frags() || ip.frag_offset() != 0 {
                return None;
            }
            let payload = bytes.get(usize::from(ip.header_len())..usize::from(ip.total_len()))?;
            (IpAddr::V4(ip.src_addr()), IpAddr::V4(ip.dst_addr()), ip.next_header(), payload)
        }
        IpVersion::Ipv6 => {
            let ip = Ipv6Packet::new_checked(bytes).ok()?;
            let payload = bytes.get(ip.header_len()..ip.total_len())?;
            (IpAddr::V6(ip.src_addr()), IpAddr::V6(ip.dst_addr()), ip.next_header(), payload)
        }
    };
    let (ports, content) = match protocol {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(payload).ok()?;
            let data = payload.len().checked_sub(usize::from(tcp.header_len()))?;
            let segment = Segment {
                syn: tcp.syn(),
                ack: tcp.ack(),
                rst: tcp.rst(),
                sequence: tcp.seq_number(),
                acknowledged: tcp.ack_number(),
                length: data + usize::from(tcp.syn()) + usize::from(tcp.fin()),
            };
            ((tcp.src_port(), tcp.dst_port()), Content::Tcp(segment))
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(payload).ok()?;
            let data = payload.get(UDP_HEADER_LEN..usize::from(udp.len()))?;
            ((udp.src_port(), udp.dst_port()), Content::Udp(data))
        }
        _ => return None,
    };
    if ports.0 == 0 || ports.1 == 0 {
        return None;
    }
    Some(Packet {
        source: SocketAddr::new(source, ports.0),
        destination: SocketAddr::new(destination, ports.1),
        content,
    })
}

/// The answer to a connection that is refused or unknown (RFC 9293, 3.5.2).
pub(super) fn reset(packet: &Packet<'_>, segment: &Segment) -> Vec<u8> {
    let (sequence, acknowledgement) = if segment.ack {
        (segment.acknowledged, None)
    } else {
        (TcpSeqNumber(0), Some(segment.sequence + segment.length))
    };
    let tcp = TcpRepr {
        src_port: packet.destination.port(),
        dst_port: packet.source.port(),
        control: TcpControl::Rst,
        seq_number: sequence,
        ack_number: acknowledgement,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None, None, None],
        timestamp: None,
        payload: &[],
    };
    let (from, to) = (packet.destination.ip(), packet.source.ip());
    ip(from, to, IpProtocol::Tcp, tcp.buffer_len(), |payload, from, to| {
        tcp.emit(&mut TcpPacket::new_unchecked(payload), from, to, &ChecksumCapabilities::default());
    })
}

/// A UDP packet. `None` if the payload does not fit the device.
pub(super) fn udp(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
    const LARGEST_IP_HEADER: usize = 40;
    if LARGEST_IP_HEADER + UDP_HEADER_LEN + data.len() > MTU {
        return None;
    }
    let header = UdpRepr { src_port: from.port(), dst_port: to.port() };
    Some(ip(from.ip(), to.ip(), IpProtocol::Udp, UDP_HEADER_LEN + data.len(), |payload, from, to| {
        let write = |buffer: &mut [u8]| buffer.copy_from_slice(data);
        header.emit(
            &mut UdpPacket::new_unchecked(payload),
            from,
            to,
            data.len(),
            write,
            &ChecksumCapabilities::default(),
        );
    }))
}

/// The ICMP answer "port unreachable" to a UDP packet, so that a program learns at once that nobody will answer.
pub(super) fn unreachable(packet: &Packet<'_>, original: &[u8]) -> Vec<u8> {
    const QUOTED: usize = 512; // header and beginning of the packet, below the 576 bytes that every host takes
    const HEADER: usize = 8;
    let quoted = &original[..original.len().min(QUOTED)];
    let (from, to) = (packet.destination.ip(), packet.source.ip());
    let (protocol, kind, code) = match from {
        IpAddr::V4(_) => (IpProtocol::Icmp, 3, 3),
        IpAddr::V6(_) => (IpProtocol::Icmpv6, 1, 4),
    };
    ip(from, to, protocol, HEADER + quoted.len(), |payload, from, to| {
        payload[0] = kind;
        payload[1] = code;
        payload[HEADER..].copy_from_slice(quoted);
        let length = u32::try_from(payload.len()).unwrap_or(0);
        let sum = match protocol {
            IpProtocol::Icmp => !checksum::data(payload),
            _ => !checksum::combine(&[checksum::pseudo_header(from, to, protocol, length), checksum::data(payload)]),
        };
        payload[2..4].copy_from_slice(&sum.to_be_bytes());
    })
}

/// An IP packet around `length` bytes that `fill` writes.
fn ip(
    from: IpAddr,
    to: IpAddr,
    protocol: IpProtocol,
    length: usize,
    fill: impl FnOnce(&mut [u8], &IpAddress, &IpAddress),
) -> Vec<u8> {
    let (from, to) = (IpAddress::from(from), IpAddress::from(to));
    let header = IpRepr::new(from, to, protocol, length, HOP_LIMIT);
    let mut packet = vec![0; header.buffer_len()];
    header.emit(&mut packet, &ChecksumCapabilities::default());
    fill(&mut packet[header.header_len()..], &from, &to);
    packet
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn anything_can_be_looked_at(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _whatever = parse(&bytes);
        }

        #[test]
        fn anything_that_begins_like_ip_can_be_answered(
            version in prop_oneof![Just(0x45_u8), Just(0x4f), Just(0x60)],
            protocol in prop_oneof![Just(6_u8), Just(17)],
            mut bytes in proptest::collection::vec(any::<u8>(), 20..200),
        ) {
            let length = u16::try_from(bytes.len()).unwrap();
            bytes[0] = version;
            if version == 0x60 {
                bytes[4..6].copy_from_slice(&length.saturating_sub(40).to_be_bytes());
                bytes[6] = protocol;
            } else {
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
                bytes[6..8].fill(0);
                bytes[9] = protocol;
            }
            if let Some(packet) = parse(&bytes) {
                let answer = match &packet.content {
                    Content::Tcp(segment) => reset(&packet, segment),
                    Content::Udp(_) => unreachable(&packet, &bytes),
                };
                prop_assert!(answer.len() < 600);
            }
        }

        #[test]
        fn udp_survives_the_round_trip(data in proptest::collection::vec(any::<u8>(), 0..2000), v6 in any::<bool>()) {
            let (from, to): (SocketAddr, SocketAddr) = if v6 {
                ("[2001:db8::1]:53".parse().unwrap(), "[fd00::15]:4000".parse().unwrap())
            } else {
                ("192.0.2.1:53".parse().unwrap(), "10.0.2.15:4000".parse().unwrap())
            };
            let bytes = udp(from, to, &data).unwrap();
            let packet = parse(&bytes).unwrap();
            prop_assert_eq!((packet.source, packet.destination), (from, to));
            let Content::Udp(carried) = packet.content else { panic!("a UDP packet") };
            prop_assert_eq!(carried, &data[..]);
        }
    }

    #[test]
    fn nothing_at_all_is_no_packet() {
        assert!(parse(&[]).is_none());
    }

    #[test]
    fn an_oversized_datagram_is_not_built() {
        let address: SocketAddr = "192.0.2.1:53".parse().unwrap();
        assert!(udp(address, address, &vec![0; MTU]).is_none());
    }
}
