//! IP headers, as far as a verdict needs them.

use aya_ebpf::{bindings::__sk_buff, programs::sk_buff::SkBuff};
use bulkhead_common::{Address, Protocol};

use crate::verifier::{forget_address, forget16, forget32};

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// How many IPv6 extension headers are walked; more make a packet malformed. RFC 8200 section 4.1 knows seven, each
/// at most once but for destination options.
const MAX_EXTENSIONS: usize = 8;

/// The parts of a packet that a verdict looks at.
#[derive(Clone, Copy, Default)]
pub struct Packet {
    pub source: Address,
    pub target: Address,
    pub protocol: Protocol,
    /// Ports in the machine's order. For ICMP, type << 8 | code in both; 0 for protocols without ports.
    pub source_port: u16,
    pub target_port: u16,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// A TCP segment that opens a connection: SYN without ACK.
    pub opens: bool,
}

/// Reads the headers, as far as they go. False: malformed, a fragment without its first part, or a packet that goes elsewhere than it says.
#[inline(never)]
pub fn parse(skb: *mut __sk_buff, packet: &mut Packet) -> bool {
    let skb = SkBuff::new(skb);
    // SAFETY: the program's context.
    let ethertype = u16::from_be(unsafe { (*skb.skb).protocol } as u16);
    let parsed = match ethertype {
        ETH_P_IP => ipv4(&skb, packet),
        ETH_P_IPV6 => ipv6(&skb, packet),
        _ => None,
    };
    packet.source = forget_address(packet.source);
    packet.target = forget_address(packet.target);
    packet.protocol = Protocol(forget32(u32::from(packet.protocol.0)) as u8);
    packet.source_port = forget16(packet.source_port);
    packet.target_port = forget16(packet.target_port);
    parsed.is_some()
}

/// RFC 791 section 3.1. With options a packet is not judged but refused: a source route among them (RFC 791, "Loose
/// Source and Record Route") sends it to another machine first, and the rest of them nobody needs (RFC 7126).
#[inline(always)]
fn ipv4(ctx: &SkBuff, packet: &mut Packet) -> Option<()> {
    let h: [u8; 20] = ctx.load(0).ok()?;
    let header_len = usize::from(h[0] & 0x0f) * 4;
    let fragment_offset = u16::from_be_bytes([h[6] & 0x1f, h[7]]);
    packet.source = Address::v4([h[12], h[13], h[14], h[15]]);
    packet.target = Address::v4([h[16], h[17], h[18], h[19]]);
    packet.hop_limit = h[8];
    packet.protocol = Protocol(h[9]);
    if h[0] >> 4 != 4 || header_len != 20 || fragment_offset != 0 {
        return None;
    }
    transport(ctx, header_len, packet)
}

/// RFC 8200 section 3, extension headers section 4. A routing header with segments left is refused: the packet goes to
/// another machine first, and for TCP that is not the one that the socket is connected to.
#[inline(always)]
fn ipv6(ctx: &SkBuff, packet: &mut Packet) -> Option<()> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;

    let h: [u8; 8] = ctx.load(0).ok()?;
    packet.source = Address(ctx.load(8).ok()?);
    packet.target = Address(ctx.load(24).ok()?);
    packet.hop_limit = h[7];
    if h[0] >> 4 != 6 {
        return None;
    }
    let mut next = h[6];
    let mut offset = 40;
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
            packet.protocol = Protocol(next);
            return transport(ctx, offset, packet);
        }
        packet.protocol = Protocol(next);
        let e: [u8; 4] = ctx.load(offset).ok()?;
        offset += match next {
            FRAGMENT => {
                if u16::from_be_bytes([e[2], e[3]]) >> 3 != 0 {
                    return None;
                }
                8
            }
            ROUTING if e[3] != 0 => return None,
            AUTHENTICATION => (usize::from(e[1]) + 2) * 4,
            _ => (usize::from(e[1]) + 1) * 8,
        };
        next = e[0];
    }
    None
}

#[inline(always)]
fn transport(ctx: &SkBuff, offset: usize, packet: &mut Packet) -> Option<()> {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;

    if packet.protocol.has_ports() {
        let p: [u8; 4] = ctx.load(offset).ok()?;
        packet.source_port = u16::from_be_bytes([p[0], p[1]]);
        packet.target_port = u16::from_be_bytes([p[2], p[3]]);
        if packet.protocol == Protocol::TCP {
            let flags: u8 = ctx.load(offset + 13).ok()?;
            packet.opens = flags & (SYN | ACK) == SYN;
        }
    } else if packet.protocol.is_icmp() {
        let kind: [u8; 2] = ctx.load(offset).ok()?;
        packet.source_port = u16::from_be_bytes(kind);
        packet.target_port = packet.source_port;
    }
    Some(())
}
