//! Whole IP packets, as raw sockets send them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use bulkhead_tests::scene::PORT;

/// UDP's number among protocols.
pub(crate) const UDP: u8 = 17;
/// The port that [`udp_header`] names as the sender's.
pub(crate) const SENDER: u16 = 40_001;

/// Which part of a packet it is (RFC 791 section 3.1).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// The first, and others follow.
    First,
    /// The last, so many 8-byte units behind the beginning.
    Last(u8),
}

/// A UDP header from [`SENDER`] to [`PORT`], without data or checksum.
pub(crate) fn udp_header() -> [u8; 8] {
    let ([a, b], [c, d]) = (SENDER.to_be_bytes(), PORT.to_be_bytes());
    [a, b, c, d, 0, 8, 0, 0]
}

/// The same from another port, with eight bytes of data.
pub(crate) fn datagram(from: u16) -> [u8; 16] {
    let ([a, b], [c, d]) = (from.to_be_bytes(), PORT.to_be_bytes());
    [a, b, c, d, 0, 16, 0, 0, b'q', b'u', b'e', b's', b't', b'i', b'o', b'n']
}

/// A TCP segment over IPv4 that opens a connection (RFC 9293 section 3.1): SYN and nothing else.
pub(crate) fn opening_segment((source, target): (SocketAddrV4, SocketAddrV4)) -> Vec<u8> {
    const TCP: u8 = 6;
    const SYN: u8 = 2;
    const WORDS: u8 = 5;
    let mut segment = Vec::new();
    segment.extend(source.port().to_be_bytes());
    segment.extend(target.port().to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, WORDS << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo_header = [source.ip().octets(), target.ip().octets(), [0, TCP, 0, WORDS * 4]].concat();
    let sum = [&pseudo_header[..], &segment].concat();
    let sum: u32 = sum.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    // Ones' complement of the ones' complement sum (RFC 1071): what overflows is added again.
    let [.., a, b] = (!(sum + (sum >> 16))).to_be_bytes();
    segment[16..18].copy_from_slice(&[a, b]);
    let mut packet = ipv4_packet((*source.ip(), *target.ip()), Part::Whole, &[], &segment);
    packet[9] = TCP;
    packet
}

/// A UDP packet over IPv4 with these options; the kernel fills in length and checksum, and what source is unspecified
/// (raw(7)).
pub(crate) fn ipv4_packet(
    (source, target): (Ipv4Addr, Ipv4Addr),
    part: Part,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let header_words = u8::try_from(5 + options.len() / 4).expect("a header has at most 15 words");
    let (identification, more, offset) = match part {
        Part::Whole => (0, 0, 0),
        Part::First => (7, 0x20, 0),
        Part::Last(units) => (7, 0, units),
    };
    let mut packet = vec![0x40 | header_words, 0, 0, 0, 0, identification, more, offset, 64, UDP, 0, 0];
    packet.extend(source.octets());
    packet.extend(target.octets());
    packet.extend(options);
    packet.extend(payload);
    packet
}

/// An IPv6 packet with this next header.
pub(crate) fn ipv6_packet((source, target): (Ipv6Addr, Ipv6Addr), next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a few bytes").to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
    packet.extend(source.octets());
    packet.extend(target.octets());
    packet.extend(payload);
    packet
}
