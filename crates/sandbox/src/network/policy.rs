//! Which address a sandbox may reach.
//!
//! Refused are the ranges that lead to the host, to its neighbours or to a cloud's metadata service. Other
//! special-purpose ranges (documentation, benchmarking, "class E") are not: they may be somebody's real network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::Egress;

/// SMTP: a sandbox is not a mail relay, whatever the operator opened.
const SMTP: u16 = 25;

/// IPv4 ranges that are refused unless the operator opened them.
const REFUSED_V4: &[Ipv4Net] = &[
    v4(0, 0, 0, 0, 8),          // "this network": Linux connects 0.0.0.0 to itself
    v4(10, 0, 0, 0, 8),         // RFC 1918
    v4(100, 64, 0, 0, 10),      // carrier-grade NAT, and metadata of some clouds
    v4(127, 0, 0, 0, 8),        // loopback
    v4(168, 63, 129, 16, 32),   // the wire server of Azure, a metadata service on a public address
    v4(169, 254, 0, 0, 16),     // link-local, and the usual metadata address
    v4(172, 16, 0, 0, 12),      // RFC 1918
    v4(192, 0, 0, 192, 32),     // metadata of Oracle's classic cloud
    v4(192, 168, 0, 0, 16),     // RFC 1918
    v4(224, 0, 0, 0, 4),        // multicast
    v4(255, 255, 255, 255, 32), // broadcast
];

/// IPv6 ranges that are refused unless the operator opened them. Ranges that carry an IPv4 address are judged by
/// that address, see [`embedded`].
const REFUSED_V6: &[Ipv6Net] = &[
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128),        // unspecified
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128),        // loopback
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), // local-use NAT64 (RFC 8215): leads into the operator's network
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),     // unique local, and metadata of AWS
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),    // link-local
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),    // site-local, the deprecated form of unique local
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),     // multicast
];

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(s: [u16; 8], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]), prefix)
}

/// What one sandbox may reach.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    /// Reach of outbound connections.
    pub(crate) egress: Egress,
    /// Where connections to [`crate::GATEWAY`] end on the host. `None`: they are refused.
    pub(crate) gateway: Option<SocketAddr>,
    /// Otherwise refused networks that the operator has opened.
    pub(crate) allow: Vec<IpNet>,
    /// The host's name servers, asked on the sandbox's behalf; see [`super::host_resolvers`].
    pub(crate) resolvers: Vec<SocketAddr>,
}

impl Policy {
    /// Whether a connection to `address` and `port` may leave, for TCP and UDP alike. `own` are the addresses of
    /// the host itself, which are refused like loopback. The gateway and the resolver are no matter of this
    /// function: they never leave the host under their own address.
    #[must_use]
    pub(crate) fn permits(&self, address: IpAddr, port: u16, own: &[IpAddr]) -> bool {
        if self.egress == Egress::None || port == SMTP || port == 0 || !connectable(address) {
            return false;
        }
        if self.allow.iter().any(|network| network.contains(&address)) {
            return true;
        }
        match address {
            _ if own.contains(&address) => false,
            IpAddr::V4(v4) => !REFUSED_V4.iter().any(|network| network.contains(&v4)),
            IpAddr::V6(v6) => {
                !REFUSED_V6.iter().any(|network| network.contains(&v6))
                    && embedded(v6).into_iter().all(|v4| self.permits(IpAddr::V4(v4), port, own))
            }
        }
    }
}

/// Whether a connection to the address can mean one other machine. Not even the operator can open the others.
fn connectable(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}

/// The IPv4 addresses that a packet to this IPv6 address may be translated or tunnelled to.
fn embedded(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let octets = address.octets();
    let at = |from: usize| Ipv4Addr::new(octets[from], octets[from + 1], octets[from + 2], octets[from + 3]);
    let s = address.segments();
    let mut found = Vec::new();
    match s {
        // ::a.b.c.d (compatible, deprecated), without `::` and `::1`, which have entries of their own
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 || low > 1 => found.push(at(12)),
        // ::ffff:a.b.c.d (mapped), ::ffff:0:a.b.c.d (translated), 64:ff9b::a.b.c.d (NAT64)
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
            found.push(at(12))
        }
        // 2002:a.b.c.d:: (6to4)
        [0x2002, ..] => found.push(at(2)),
        // 2001:0:server:…:client inverted (Teredo)
        [0x2001, 0, ..] => {
            found.push(at(4));
            found.push(Ipv4Addr::from(!u32::from(at(12))));
        }
        _ => {}
    }
    // …:0:5efe:a.b.c.d or …:200:5efe:a.b.c.d (ISATAP), under any prefix
    if matches!(s[4], 0 | 0x0200) && s[5] == 0x5efe {
        found.push(at(12));
    }
    found
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use proptest::prelude::*;

    use super::*;

    fn public() -> Policy {
        Policy::default()
    }

    fn permitted(policy: &Policy, address: &str) -> bool {
        policy.permits(address.parse().unwrap(), 443, &[])
    }

    #[test]
    fn first_and_last_address_of_every_refused_range_and_their_outer_neighbours() {
        // (first, last, permitted just below, permitted just above)
        let table = [
            ("0.0.0.0", "0.255.255.255", None, Some("1.0.0.0")),
            ("10.0.0.0", "10.255.255.255", Some("9.255.255.255"), Some("11.0.0.0")),
            ("100.64.0.0", "100.127.255.255", Some("100.63.255.255"), Some("100.128.0.0")),
            ("127.0.0.0", "127.255.255.255", Some("126.255.255.255"), Some("128.0.0.0")),
            ("168.63.129.16", "168.63.129.16", Some("168.63.129.15"), Some("168.63.129.17")),
            ("169.254.0.0", "169.254.255.255", Some("169.253.255.255"), Some("169.255.0.0")),
            ("172.16.0.0", "172.31.255.255", Some("172.15.255.255"), Some("172.32.0.0")),
            ("192.0.0.192", "192.0.0.192", Some("192.0.0.191"), Some("192.0.0.193")),
            ("192.168.0.0", "192.168.255.255", Some("192.167.255.255"), Some("192.169.0.0")),
            ("224.0.0.0", "239.255.255.255", Some("223.255.255.255"), Some("240.0.0.0")),
            ("255.255.255.255", "255.255.255.255", Some("255.255.255.254"), None),
            ("::", "::", None, None),
            ("::1", "::1", None, None),
            ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", None, Some("64:ff9b:2::")),
            ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some("fbff:ffff::1"), Some("fe00::")),
            ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some("fe7f::1"), None),
            ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None),
            ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None),
        ];
        for (first, last, below, above) in table {
            assert!(!permitted(&public(), first), "{first} must be refused");
            assert!(!permitted(&public(), last), "{last} must be refused");
            for neighbour in below.into_iter().chain(above) {
                assert!(permitted(&public(), neighbour), "{neighbour} must be permitted");
            }
        }
    }

    #[test]
    fn other_special_purpose_ranges_may_be_real_networks() {
        for address in [
            "192.0.2.1",
            "198.51.100.7",
            "203.0.113.9",
            "198.18.0.1",
            "240.0.0.1",
            "2001:db8::1",
            "2606:4700::1111",
            "1.1.1.1",
        ] {
            assert!(permitted(&public(), address), "{address}");
        }
    }

    #[test]
    fn metadata_addresses_in_every_spelling_are_refused() {
        for address in [
            "169.254.169.254",
            "fd00:ec2::254",
            "100.100.100.200",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "2001:0:a9fe:a9fe::1",
            "2001:0:102:304:0:0:5601:5601",
            "2a00::5efe:169.254.169.254",
            "2a00::200:5efe:169.254.169.254",
        ] {
            assert!(!permitted(&public(), address), "{address}");
        }
    }

    #[test]
    fn embedded_public_addresses_are_permitted() {
        for address in ["::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::1"] {
            assert!(permitted(&public(), address), "{address}");
        }
    }

    #[test]
    fn the_host_itself_is_refused_also_under_public_addresses() {
        let own = ["203.0.113.5".parse().unwrap(), "2a00::5".parse().unwrap()];
        let permits = |address: &str| public().permits(address.parse().unwrap(), 443, &own);
        assert!(!permits("203.0.113.5"));
        assert!(!permits("2a00::5"));
        assert!(!permits("::ffff:203.0.113.5"));
        assert!(permits("203.0.113.6"));
        assert!(permits("2a00::6"));
    }

    #[test]
    fn mail_is_refused_everywhere_and_port_zero_is_no_port() {
        let open = Policy { allow: vec!["0.0.0.0/0".parse().unwrap()], ..Policy::default() };
        for port in [0, 25] {
            assert!(!public().permits("1.1.1.1".parse().unwrap(), port, &[]));
            assert!(!open.permits("10.1.2.3".parse().unwrap(), port, &[]));
        }
        assert!(public().permits("1.1.1.1".parse().unwrap(), 587, &[]));
    }

    #[test]
    fn the_operator_can_open_networks_and_nothing_around_them() {
        let policy =
            Policy { allow: vec!["10.1.0.0/16".parse().unwrap(), "fd12::/16".parse().unwrap()], ..Policy::default() };
        assert!(permitted(&policy, "10.1.2.3"));
        assert!(permitted(&policy, "::ffff:10.1.2.3"));
        assert!(permitted(&policy, "fd12::1"));
        assert!(!permitted(&policy, "10.2.0.1"));
        assert!(!permitted(&policy, "fd13::1"));
        assert!(!permitted(&policy, "127.0.0.1"));
    }

    #[test]
    fn multicast_and_broadcast_cannot_be_opened() {
        let policy = Policy { allow: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()], ..Policy::default() };
        for address in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1"] {
            assert!(!permitted(&policy, address), "{address}");
        }
        assert!(permitted(&policy, "10.0.0.1"));
    }

    #[test]
    fn without_egress_nothing_is_permitted() {
        let policy = Policy { egress: Egress::None, allow: vec!["0.0.0.0/0".parse().unwrap()], ..Policy::default() };
        assert!(!permitted(&policy, "1.1.1.1"));
        assert!(!permitted(&policy, "10.0.0.1"));
    }

    fn refused_v4() -> impl Strategy<Value = Ipv4Addr> {
        (0..REFUSED_V4.len(), any::<u32>()).prop_map(|(index, noise)| {
            let network = REFUSED_V4[index];
            Ipv4Addr::from(u32::from(network.network()) | (noise & u32::from(network.hostmask())))
        })
    }

    /// Every way to write an IPv4 address into an IPv6 one.
    fn embeddings(v4: Ipv4Addr, noise: u64) -> Vec<Ipv6Addr> {
        let bits = u128::from(u32::from(v4));
        let noise = u128::from(noise);
        vec![
            Ipv6Addr::from(bits),
            v4.to_ipv6_mapped(),
            Ipv6Addr::from((0xffff_u128 << 48) | bits),
            Ipv6Addr::from((0x0064_ff9b_u128 << 96) | bits),
            Ipv6Addr::from((0x2002_u128 << 112) | (bits << 80) | noise),
            Ipv6Addr::from((0x2001_0000_u128 << 96) | (bits << 64) | noise),
            Ipv6Addr::from(
                (0x2001_0000_u128 << 96)
                    | (0x0808_0808_u128 << 64)
                    | ((noise & 0xffff_ffff) << 32)
                    | u128::from(!u32::from(v4)),
            ),
            Ipv6Addr::from((0x2a00_u128 << 112) | (0x0000_5efe_u128 << 32) | bits),
            Ipv6Addr::from((0x2a00_u128 << 112) | (0x0200_5efe_u128 << 32) | bits),
        ]
    }

    proptest! {
        #[test]
        fn no_refused_address_passes_in_any_embedding(v4 in refused_v4(), noise in any::<u64>(), port in any::<u16>()) {
            prop_assert!(!public().permits(IpAddr::V4(v4), port, &[]), "{v4}");
            for v6 in embeddings(v4, noise) {
                prop_assert!(!public().permits(IpAddr::V6(v6), port, &[]), "{v6} carries {v4}");
            }
        }

        #[test]
        fn no_address_in_a_refused_v6_range_passes(index in 0..REFUSED_V6.len(), noise in any::<u128>(), port in any::<u16>()) {
            let network = REFUSED_V6[index];
            let address = Ipv6Addr::from(u128::from(network.network()) | (noise & u128::from(network.hostmask())));
            prop_assert!(!public().permits(IpAddr::V6(address), port, &[]), "{address}");
        }

        #[test]
        fn what_std_calls_private_or_local_never_passes(bits in any::<u32>()) {
            let v4 = Ipv4Addr::from(bits);
            if v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified() {
                prop_assert!(!public().permits(IpAddr::V4(v4), 443, &[]));
            }
        }
    }
}
