//! Ethernet frames.

use bulkhead_common::{Address, Direction, Protocol};

use crate::case::{Case, Damage, Extension};

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// More extension headers than any packet has.
const TOO_MANY: usize = 9;

/// The frame of a packet on its way. Checksums are 0: nobody looks at them here.
pub(crate) fn frame(case: &Case) -> Vec<u8> {
    let (source, target) = match case.packet.direction {
        Direction::Egress => (case.own(), case.far()),
        Direction::Ingress => (case.far(), case.own()),
    };
    let mut payload = transport(case, source.1, target.1);
    if case.look.damage == Some(Damage::Short) {
        payload.truncate(1);
    }
    let ends = (source.0, target.0);
    let mut frame = vec![0; 12];
    if case.is_v6() {
        frame.extend(IPV6);
        frame.extend(ipv6(case, ends, &payload));
    } else {
        frame.extend(IPV4);
        frame.extend(ipv4(case, ends, &payload));
    }
    frame
}

/// A transport header and what follows.
fn transport(case: &Case, source: u16, target: u16) -> Vec<u8> {
    const TCP_SYN: u8 = 2;
    let protocol = case.packet.protocol;
    let ports = [source.to_be_bytes(), target.to_be_bytes()].concat();
    let mut bytes = match protocol {
        Protocol::TCP => [&ports[..], &[0; 8], &[5 << 4, TCP_SYN, 0xff, 0xff, 0, 0, 0, 0]].concat(),
        Protocol::UDP | Protocol::UDPLITE => [&ports[..], &[0; 4]].concat(),
        Protocol::SCTP => [&ports[..], &[0; 8]].concat(),
        Protocol::ICMP | Protocol::ICMPV6 => {
            [&case.packet.port.to_be_bytes()[..], &[0, 0, 0, 1, 0, 1]].concat()
        }
        _ => vec![],
    };
    bytes.resize(bytes.len() + case.look.payload, 0xa5);
    bytes
}

/// RFC 791 section 3.1.
fn ipv4(case: &Case, (source, target): (Address, Address), payload: &[u8]) -> Vec<u8> {
    // A record route with no room (type 7).
    const OPTION: [u8; 4] = [7, 3, 4, 0];
    let damage = case.look.damage;
    let options = if damage == Some(Damage::Detour) { &OPTION[..] } else { &[] };
    let words = if damage == Some(Damage::Headers) { 4 } else { 5 + options.len() / 4 };
    let version = if damage == Some(Damage::OtherVersion) { 6 } else { 4 };
    let more_fragments = if case.look.more_fragments { 0x20 } else { 0 };
    let offset = if damage == Some(Damage::LaterFragment) { 8 } else { 0 };
    let length = length(20 + options.len() + payload.len());
    let mut header = vec![version << 4 | byte(words), 0, length[0], length[1]];
    header.extend([0, 1, more_fragments, offset, case.look.hop_limit, case.packet.protocol.0, 0, 0]);
    header.extend([&source.octets()[12..], &target.octets()[12..], options, payload].concat());
    header
}

/// RFC 8200 section 3, with its extension headers.
fn ipv6(case: &Case, (source, target): (Address, Address), payload: &[u8]) -> Vec<u8> {
    let mut extensions = case.look.extensions.clone();
    let mut rest = Vec::new();
    match case.look.damage {
        Some(Damage::Headers) => extensions = vec![Extension::Destination; TOO_MANY],
        Some(Damage::LaterFragment) if !extensions.contains(&Extension::Fragment) => {
            extensions.push(Extension::Fragment);
        }
        Some(Damage::Detour) if !extensions.contains(&Extension::Routing) => {
            extensions.push(Extension::Routing);
        }
        _ => {}
    }
    let numbers: Vec<u8> = extensions.iter().map(|e| number(*e)).chain([case.packet.protocol.0]).collect();
    for (extension, next) in extensions.iter().zip(&numbers[1..]) {
        rest.extend(header(*extension, *next, case.look.damage));
    }
    rest.extend(payload);
    let length = length(rest.len());
    let version = if case.look.damage == Some(Damage::OtherVersion) { 4 } else { 6 };
    let mut packet = vec![version << 4, 0, 0, 0, length[0], length[1], numbers[0], case.look.hop_limit];
    packet.extend([&source.octets()[..], &target.octets(), &rest].concat());
    packet
}

/// Protocol number of an extension header (IANA "Protocol Numbers").
fn number(extension: Extension) -> u8 {
    match extension {
        Extension::HopByHop => 0,
        Extension::DestinationOnTheWay | Extension::Destination => 60,
        Extension::Routing => 43,
        Extension::Fragment => 44,
        Extension::Authentication => 51,
    }
}

/// RFC 8200 section 4, RFC 4302 section 2.
fn header(extension: Extension, next: u8, damage: Option<Damage>) -> Vec<u8> {
    // PadN over the whole header.
    let padded = |units: u8| {
        let mut options = vec![next, units, 1, units * 8 + 4];
        options.resize((usize::from(units) + 1) * 8, 0);
        options
    };
    match extension {
        Extension::HopByHop => padded(0),
        Extension::DestinationOnTheWay => padded(2),
        Extension::Destination => padded(1),
        Extension::Routing => {
            let left = u8::from(damage == Some(Damage::Detour));
            [&[next, 2, 4, left, 0, 0, 0, 0][..], &[0; 16]].concat()
        }
        Extension::Fragment => {
            let offset = u8::from(damage == Some(Damage::LaterFragment)) << 3;
            vec![next, 0, 0, offset | 1, 0, 0, 0, 1]
        }
        Extension::Authentication => [&[next, 4, 0, 0][..], &[0; 20]].concat(),
    }
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("packets are small").to_be_bytes()
}

fn byte(number: usize) -> u8 {
    u8::try_from(number).expect("a header has at most 15 words")
}
