//! Addresses that no name may resolve to: loopback, link-local, cloud metadata. No I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services of clouds outside of the link-local ranges: they issue credentials.
const METADATA: [IpAddr; 7] = [
    // Alibaba Cloud; Azure's wire server; Oracle Cloud Classic.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    // AWS: instance metadata, Pod identities, time and DNS next to them; Google Cloud.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0023)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0253)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254)),
];

/// Returns a description of the address if no name may resolve to it.
pub(super) fn reserved(address: IpAddr) -> Option<&'static str> {
    if METADATA.contains(&address) {
        return Some("a cloud metadata service");
    }
    match address {
        IpAddr::V4(v4) => reserved_v4(v4),
        IpAddr::V6(v6) => {
            if v6.is_unspecified() {
                Some("the unspecified address")
            } else if v6.is_loopback() {
                Some("this machine")
            } else if v6.is_unicast_link_local() {
                Some("a link-local address")
            } else if v6.is_multicast() {
                Some("a multicast address")
            } else {
                embedded_v4(v6).and_then(|inner| reserved(IpAddr::V4(inner)))
            }
        }
    }
}

fn reserved_v4(address: Ipv4Addr) -> Option<&'static str> {
    if address.is_loopback() {
        Some("this machine")
    } else if address.octets().starts_with(&[0]) {
        Some("the unspecified network")
    } else if address.is_link_local() {
        Some("a link-local address, used for cloud metadata")
    } else if address.is_multicast() || address.is_broadcast() {
        Some("a multicast or broadcast address")
    } else {
        None
    }
}

/// Returns the IPv4 address inside of an IPv6 address: IPv4-compatible (RFC 4291 § 2.5.5.1), IPv4-translated (RFC 2765
/// § 2.1), NAT64 (RFC 6052, and RFC 8215 as a /96), 6to4 (RFC 3056). The caller has converted IPv4-mapped addresses.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let low = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0, 0, 0, 0, 0 | 0xffff, 0, g, h]
        | [0x64, 0xff9b, 0, 0, 0, 0, g, h]
        | [0x64, 0xff9b, 1, _, _, _, g, h] => Some(low(g, h)),
        [0x2002, b, c, ..] => Some(low(b, c)),
        _ => None,
    }
}

/// Returns true for an address that is not reachable from the Internet, but may be in a private network (IANA's
/// special-purpose address registries).
pub(super) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_private()
                || matches!(
                    v4.octets(),
                    [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18..=19, ..] | [240..=255, ..]
                )
        }
        IpAddr::V6(v6) => {
            // fc00::/7, and fec0::/10, which it replaced.
            v6.is_unique_local()
                || v6
                    .segments()
                    .first()
                    .is_some_and(|first| first & 0xffc0 == 0xfec0)
                || embedded_v4(v6).is_some_and(|inner| is_private(IpAddr::V4(inner)))
        }
    }
}
