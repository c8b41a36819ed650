//! Plain packets, read where they lie: UDP or TCP right after an IPv4 header without options that is no fragment, or after an
//! IPv6 header without extensions. Nearly all packets are; whatever is not is looked at by [`crate::parse`].

use aya_ebpf::bindings::__sk_buff;
use bulkhead_common::Protocol;

/// First byte of an IPv4 header without options: version 4, five words (RFC 791 section 3.1).
const V4: u8 = 4 << 4 | 5;
/// Upper half of an IPv6 header's first byte (RFC 8200 section 3).
const V6: u8 = 6;
/// In the second word of an IPv4 header: more fragments follow, or this is not the first.
const FRAGMENT: u32 = 0x3fff_u32.to_be();

/// A packet of which the IP header and the first eight bytes after it are in the linear data.
#[derive(Clone, Copy)]
pub struct Plain {
    start: *const u8,
    transport: *const u8,
    end: *const u8,
    pub is_v4: bool,
    /// UDP or TCP.
    pub protocol: Protocol,
}

impl Plain {
    #[inline(always)]
    pub fn of(skb: *mut __sk_buff) -> Option<Self> {
        // SAFETY: the program's context. Every access is within what was compared with the end of the linear data.
        unsafe {
            let start = (*skb).data as usize as *const u8;
            let end = (*skb).data_end as usize as *const u8;
            if start.add(28) > end {
                return None;
            }
            let first = start.read_volatile();
            let (is_v4, transport, protocol) = if first == V4 {
                if load(start.add(4)) & FRAGMENT != 0 {
                    return None;
                }
                (true, start.add(20), start.add(9).read_volatile())
            } else if first >> 4 == V6 && start.add(48) <= end {
                (false, start.add(40), start.add(6).read_volatile())
            } else {
                return None;
            };
            let protocol = Protocol(protocol);
            matches!(protocol, Protocol::UDP | Protocol::TCP).then_some(Self {
                start,
                transport,
                end,
                is_v4,
                protocol,
            })
        }
    }

    /// A word of the addresses, which lie one after the other, the source first: two words of IPv4, eight of IPv6.
    #[inline(always)]
    pub fn address_word(&self, number: usize) -> u32 {
        let addresses = if self.is_v4 { 12 } else { 8 };
        // SAFETY: within the IP header.
        unsafe { load(self.start.add(addresses + 4 * number)) }
    }

    /// Source and target port as they lie there.
    #[inline(always)]
    pub fn ports(&self) -> u32 {
        // SAFETY: the first word after the IP header (RFC 768, RFC 9293 section 3.1).
        unsafe { load(self.transport) }
    }

    /// TTL or hop limit.
    #[inline(always)]
    pub fn hop_limit(&self) -> u8 {
        // SAFETY: within the IP header.
        unsafe { self.start.add(if self.is_v4 { 8 } else { 7 }).read_volatile() }
    }

    /// The flags of a TCP segment (RFC 9293 section 3.1), if it is so long.
    #[inline(always)]
    pub fn tcp_flags(&self) -> Option<u8> {
        // SAFETY: compared with the end of the linear data.
        unsafe { (self.transport.add(14) <= self.end).then(|| self.transport.add(13).read_volatile()) }
    }
}

/// Reads a word of the packet's headers.
///
/// # Safety
/// `at` and the three bytes after it must lie before the end of the packet's linear data, and the verifier know it.
#[expect(clippy::cast_ptr_alignment, reason = "the fields of an IP header are aligned to their size")]
#[inline(always)]
unsafe fn load(at: *const u8) -> u32 {
    // SAFETY: the caller vouches for it.
    unsafe { at.cast::<u32>().read_volatile() }
}
