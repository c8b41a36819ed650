//! IP headers, as far as a verdict needs them.

use aya_ebpf::{bindings::__sk_buff, programs::sk_buff::SkBuff};
use bulkhead_common::{Address, Protocol};

use crate::verifier::forget_address;

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

/// Reads the headers, as far as they go. False: malformed, a fragment without its first part, or a packet that goes
/// elsewhere than it says.
#[inline(never)]
pub fn parse(skb: *mut __sk_buff, packet: &mut Packet) -> bool {
    let ctx = SkBuff::new(skb);
    let layout = Layout(layout(skb));
    let parsed = addresses(&ctx, layout, packet).is_some() && layout.is_well_formed();
    packet.protocol = layout.protocol();
    packet.hop_limit = layout.hop_limit();
    packet.source = forget_address(packet.source);
    packet.target = forget_address(packet.target);
    parsed && transport(&ctx, layout.transport(), packet).is_some()
}

/// Where the parts of a packet lie, as one number: offset of the transport header (16 bits), its protocol (8), TTL or
/// hop limit (8), the IP version (8), and whether all is well formed (1).
#[derive(Clone, Copy)]
struct Layout(u64);

impl Layout {
    #[inline(always)]
    fn new(version: u8, hop_limit: u8, protocol: u8, transport: Option<usize>) -> Self {
        let (offset, well_formed) = match transport {
            Some(offset) => (offset as u64 & 0xffff, 1),
            None => (0, 0),
        };
        Self(
            offset
                | u64::from(protocol) << 16
                | u64::from(hop_limit) << 24
                | u64::from(version) << 32
                | well_formed << 40,
        )
    }

    #[inline(always)]
    fn transport(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    #[inline(always)]
    fn protocol(self) -> Protocol {
        Protocol((self.0 >> 16) as u8)
    }

    #[inline(always)]
    fn hop_limit(self) -> u8 {
        (self.0 >> 24) as u8
    }

    #[inline(always)]
    fn version(self) -> u8 {
        (self.0 >> 32) as u8
    }

    #[inline(always)]
    fn is_well_formed(self) -> bool {
        self.0 >> 40 != 0
    }
}

/// The [`Layout`] of a packet. A global function to the kernel, which verifies it once and by itself (see
/// [`crate::identity`]).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn layout(skb: *mut __sk_buff) -> u64 {
    let ctx = SkBuff::new(skb);
    // SAFETY: the program's context.
    let ethertype = u16::from_be(unsafe { (*skb).protocol } as u16);
    match ethertype {
        ETH_P_IP => ipv4(&ctx),
        ETH_P_IPV6 => ipv6(&ctx),
        _ => None,
    }
    .map_or(0, |layout| layout.0)
}

/// RFC 791 section 3.1. With options a packet is not judged but refused: a source route among them (RFC 791, "Loose
/// Source and Record Route") sends it to another machine first, and the rest of them nobody needs (RFC 7126).
#[inline(always)]
fn ipv4(ctx: &SkBuff) -> Option<Layout> {
    let h: [u8; 12] = ctx.load(0).ok()?;
    let fragment_offset = u16::from_be_bytes([h[6] & 0x1f, h[7]]);
    let transport = (h[0] == 4 << 4 | 5 && fragment_offset == 0).then_some(20);
    Some(Layout::new(4, h[8], h[9], transport))
}

/// RFC 8200 section 3, extension headers section 4. A routing header with segments left is refused: the packet goes to
/// another machine first, and for TCP that is not the one that the socket is connected to.
#[inline(always)]
fn ipv6(ctx: &SkBuff) -> Option<Layout> {
    let h: [u8; 8] = ctx.load(0).ok()?;
    let mut next = h[6];
    let transport = if h[0] >> 4 == 6 { skip_extensions(ctx, &mut next) } else { None };
    Some(Layout::new(6, h[7], next, transport))
}

/// The offset of what follows the extension headers; `next` is the header that was reached.
#[inline(always)]
fn skip_extensions(ctx: &SkBuff, next: &mut u8) -> Option<usize> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;

    let mut offset = 40;
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(*next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
            return Some(offset);
        }
        let e: [u8; 4] = ctx.load(offset).ok()?;
        offset += match *next {
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
        *next = e[0];
    }
    None
}

#[inline(always)]
fn addresses(ctx: &SkBuff, layout: Layout, packet: &mut Packet) -> Option<()> {
    match layout.version() {
        4 => {
            let [source, target]: [[u8; 4]; 2] = ctx.load(12).ok()?;
            packet.source = Address::v4(source);
            packet.target = Address::v4(target);
        }
        6 => {
            packet.source = Address(ctx.load(8).ok()?);
            packet.target = Address(ctx.load(24).ok()?);
        }
        _ => return None,
    }
    Some(())
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
