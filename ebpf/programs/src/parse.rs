//! IP headers, as far as a verdict needs them.

use aya_ebpf::{bindings::__sk_buff, programs::sk_buff::SkBuff};
use bulkhead_common::{Address, Protocol};

use crate::{
    plain::Plain,
    verifier::{Fact, forget_address, forget64},
};

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
    /// The source port by which the socket that it reaches is found: 0, which nothing has, in what opens a TCP connection.
    /// A listener takes that, also where the connection that had the same ports before is still there in `TIME_WAIT`
    /// (`tcp_timewait_state_process` in `net/ipv4/tcp_minisocks.c`).
    pub known_by_port: u16,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// A TCP segment that opens a connection: SYN without ACK.
    pub opens: Fact,
    /// Not malformed, not a fragment without its first part, and going where it says.
    pub is_well_formed: Fact,
}

/// Reads the headers, as far as they go.
#[inline(never)]
pub fn parse(skb: *mut __sk_buff, packet: &mut Packet) {
    let (headers, found) = if let Some(headers) = plain(skb, packet) {
        (Headers(forget64(headers.0)), true)
    } else {
        let headers = Headers(headers(skb));
        let found = addresses(&SkBuff::new(skb), headers.version(), packet).is_some();
        (headers, found)
    };
    packet.protocol = headers.protocol();
    packet.hop_limit = headers.hop_limit();
    packet.source_port = headers.source_port();
    packet.target_port = headers.target_port();
    packet.opens = headers.opens();
    packet.known_by_port = packet.opens.zero_or(packet.source_port);
    packet.source = forget_address(packet.source);
    packet.target = forget_address(packet.target);
    packet.is_well_formed = Fact::of(found && headers.is_well_formed());
}

/// What a packet's headers say but for the addresses, as one number: source and target port (16 bits each), protocol (8),
/// TTL or hop limit (8), IP version (8), whether it opens a TCP connection (1) and whether it is well formed (1).
#[derive(Clone, Copy)]
struct Headers(u64);

impl Headers {
    const OPENS: u64 = 1 << 56;
    const WELL_FORMED: u64 = 1 << 57;

    #[inline(always)]
    fn new(version: u8, hop_limit: u8, protocol: u8) -> Self {
        Self(u64::from(protocol) << 32 | u64::from(hop_limit) << 40 | u64::from(version) << 48)
    }

    /// With what the transport header at `offset` says; none: there is none that counts.
    #[inline(always)]
    fn with_transport(self, ctx: &SkBuff, offset: Option<usize>) -> Self {
        match offset.and_then(|offset| transport(ctx, offset, self.protocol())) {
            Some(transport) => Self(self.0 | transport | Self::WELL_FORMED),
            None => self,
        }
    }

    #[inline(always)]
    fn source_port(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    fn target_port(self) -> u16 {
        (self.0 >> 16) as u16
    }

    #[inline(always)]
    fn protocol(self) -> Protocol {
        Protocol((self.0 >> 32) as u8)
    }

    #[inline(always)]
    fn hop_limit(self) -> u8 {
        (self.0 >> 40) as u8
    }

    #[inline(always)]
    fn version(self) -> u8 {
        (self.0 >> 48) as u8
    }

    #[inline(always)]
    fn opens(self) -> Fact {
        Fact::bit((self.0 >> Self::OPENS.trailing_zeros()) as u32)
    }

    #[inline(always)]
    fn is_well_formed(self) -> bool {
        self.0 & Self::WELL_FORMED != 0
    }
}

/// The same of a plain packet; its addresses are put into `packet`. None: look closer.
#[inline(always)]
fn plain(skb: *mut __sk_buff, packet: &mut Packet) -> Option<Headers> {
    let found = Plain::of(skb)?;
    let opens = if found.protocol == Protocol::TCP && opens(found.tcp_flags()?) { Headers::OPENS } else { 0 };
    let address = |at| {
        if found.is_v4 {
            Address::v4(found.address_word(at).to_ne_bytes())
        } else {
            Address::from_words([0, 1, 2, 3].map(|word| found.address_word(4 * at + word)))
        }
    };
    (packet.source, packet.target) = (address(0), address(1));
    let headers = Headers::new(if found.is_v4 { 4 } else { 6 }, found.hop_limit(), found.protocol.0);
    let [a, b, c, d] = found.ports().to_ne_bytes();
    let (source, target) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Some(Headers(headers.0 | u64::from(source) | u64::from(target) << 16 | opens | Headers::WELL_FORMED))
}

/// The [`Headers`] of a packet. A global function to the kernel, which verifies it once and by itself (see
/// [`crate::identity`]).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn headers(skb: *mut __sk_buff) -> u64 {
    let ctx = SkBuff::new(skb);
    // SAFETY: the program's context.
    let ethertype = u16::from_be(unsafe { (*skb).protocol } as u16);
    match ethertype {
        ETH_P_IP => ipv4(&ctx),
        ETH_P_IPV6 => ipv6(&ctx),
        _ => None,
    }
    .map_or(0, |headers| headers.0)
}

/// RFC 791 section 3.1. With options a packet is not judged but refused: a source route among them (RFC 791, "Loose
/// Source and Record Route") sends it to another machine first, and the rest of them nobody needs (RFC 7126).
#[inline(always)]
fn ipv4(ctx: &SkBuff) -> Option<Headers> {
    let h: [u8; 12] = ctx.load(0).ok()?;
    let fragment_offset = u16::from_be_bytes([h[6] & 0x1f, h[7]]);
    let transport = (h[0] == 4 << 4 | 5 && fragment_offset == 0).then_some(20);
    Some(Headers::new(4, h[8], h[9]).with_transport(ctx, transport))
}

/// RFC 8200 section 3, extension headers section 4. A routing header with segments left is refused: the packet goes to
/// another machine first, and for TCP that is not the one that the socket is connected to.
#[inline(always)]
fn ipv6(ctx: &SkBuff) -> Option<Headers> {
    let h: [u8; 8] = ctx.load(0).ok()?;
    let mut next = h[6];
    let transport = if h[0] >> 4 == 6 { skip_extensions(ctx, &mut next) } else { None };
    Some(Headers::new(6, h[7], next).with_transport(ctx, transport))
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

/// Do these flags of a TCP segment open a connection: SYN without ACK (RFC 9293 section 3.1)?
#[inline(always)]
pub fn opens(flags: u8) -> bool {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    flags & (SYN | ACK) == SYN
}

#[inline(always)]
fn addresses(ctx: &SkBuff, version: u8, packet: &mut Packet) -> Option<()> {
    match version {
        4 => {
            let [source, target]: [[u8; 4]; 2] = ctx.load(12).ok()?;
            packet.source = Address::v4(source);
            packet.target = Address::v4(target);
        }
        6 => {
            packet.source = Address::from_words(ctx.load(8).ok()?);
            packet.target = Address::from_words(ctx.load(24).ok()?);
        }
        _ => return None,
    }
    Some(())
}

/// Ports, and whether the packet opens a connection, as in [`Headers`].
#[inline(always)]
fn transport(ctx: &SkBuff, offset: usize, protocol: Protocol) -> Option<u64> {
    if protocol.has_ports() {
        let p: [u8; 4] = ctx.load(offset).ok()?;
        let ports =
            u64::from(u16::from_be_bytes([p[0], p[1]])) | u64::from(u16::from_be_bytes([p[2], p[3]])) << 16;
        if protocol == Protocol::TCP {
            let flags: u8 = ctx.load(offset + 13).ok()?;
            if opens(flags) {
                return Some(ports | Headers::OPENS);
            }
        }
        return Some(ports);
    }
    if protocol.is_icmp() {
        let kind = u64::from(u16::from_be_bytes(ctx.load(offset).ok()?));
        return Some(kind | kind << 16);
    }
    Some(0)
}
