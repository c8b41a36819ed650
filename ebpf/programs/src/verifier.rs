//! Keeping the verifier's work small.
//!
//! The verifier follows every path with what it knows of each value, and takes two paths for one only if it knows
//! the same of both. A header parser ends in dozens of states that differ in constants (this protocol, that prefix of
//! an IPv4-mapped address), and everything after it would be verified for each. Forgetting makes them one state again.

use core::arch::asm;

use bulkhead_common::{Address, Endpoint, PeerId, SubjectId};

use crate::identity::Local;

/// The same value, of which the verifier knows nothing: byte swaps lose what it knew
/// (`check_alu_op` in kernel/bpf/verifier.c), and two of them cancel out.
#[inline(always)]
pub fn forget32(value: u32) -> u32 {
    let mut value = u64::from(value);
    // SAFETY: plain arithmetic on one register.
    unsafe { asm!("{0} = be32 {0}", "{0} = be32 {0}", inout(reg) value, options(nomem, nostack)) };
    value as u32
}

/// Something that is true (1) or not (0), of which the verifier knows neither. (A `bool` that is stored is 0 or 1 to it, and what
/// follows two cases.) A byte, for the sake of the stack.
#[derive(Clone, Copy, Default)]
pub struct Fact(u8);

impl Fact {
    #[inline(always)]
    pub fn of(fact: bool) -> Self {
        Self(forget32(u32::from(fact)) as u8)
    }

    /// Is this bit, of which the verifier knows nothing, 1?
    #[inline(always)]
    pub fn bit(bit: u32) -> Self {
        Self((bit & 1) as u8)
    }

    /// 0 if it holds, else `otherwise`: without a branch, so that the verifier need not follow two.
    #[inline(always)]
    pub fn zero_or(self, otherwise: u16) -> u16 {
        otherwise & forget32(self.bits().wrapping_sub(1)) as u16
    }

    /// 1 if it holds, else 0.
    #[inline(always)]
    pub fn bits(self) -> u32 {
        u32::from(self.0)
    }

    #[inline(always)]
    pub fn holds(self) -> bool {
        self.0 != 0
    }
}

/// As [`forget32`], for 64 bits.
#[inline(always)]
pub fn forget64(mut value: u64) -> u64 {
    // SAFETY: plain arithmetic on one register.
    unsafe { asm!("{0} = be64 {0}", "{0} = be64 {0}", inout(reg) value, options(nomem, nostack)) };
    value
}

/// As [`forget32`], for 16 bits.
#[inline(always)]
pub fn forget16(value: u16) -> u16 {
    forget32(u32::from(value)) as u16
}

/// As [`forget32`], for an address.
#[inline(always)]
pub fn forget_address(address: Address) -> Address {
    let [a, b, c, d] = address.words();
    Address::from_words([forget32(a), forget32(b), forget32(c), forget32(d)])
}

/// As [`forget32`], for an end on this host.
#[inline(always)]
pub fn forget_local(local: Local) -> Local {
    let Endpoint { subject, peer, flags } = local.endpoint;
    Local {
        endpoint: Endpoint {
            subject: SubjectId(forget32(subject.0)),
            peer: PeerId(forget32(peer.0)),
            flags: forget32(flags),
        },
        cgroup: forget64(local.cgroup),
        anchor: forget64(local.anchor),
    }
}
