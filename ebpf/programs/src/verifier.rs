//! Keeping the verifier's work small.
//!
//! The verifier follows every path with what it knows of each value, and takes two paths for one only if it knows
//! the same of both. A header parser ends in dozens of states that differ in constants (this protocol, that prefix of
//! an IPv4-mapped address), and everything after it would be verified for each. Forgetting makes them one state again.

use core::arch::asm;

use bulkhead_common::{Address, Endpoint, Outcome, PeerId, SubjectId};

use crate::identity::Local;

/// Always 0, which the verifier does not know: what lies in memory that can be written is any number to it. (Its arithmetic
/// learns from one kernel to the next; two byte swaps, say, made a number unknown until some of 6.18.)
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data")]
static mut ZERO: u64 = 0;

#[inline(always)]
fn zero() -> u64 {
    // SAFETY: nobody writes it.
    unsafe { (&raw const ZERO).read_volatile() }
}

/// The same value, of which the verifier knows nothing.
#[inline(always)]
pub fn forget32(value: u32) -> u32 {
    forget64(u64::from(value)) as u32
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

    /// Is one number the other? Without a branch: what the verifier knows of neither, it does not know of this.
    #[inline(always)]
    pub fn equal(one: u32, other: u32) -> Self {
        let differs = one ^ other;
        Self(((differs | differs.wrapping_neg()) >> 31) as u8 ^ 1)
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
pub fn forget64(value: u64) -> u64 {
    with(zero(), value)
}

/// `value`, with a [`zero`] in it. Here and now: LLVM would hold both on the stack until the value is used.
#[inline(always)]
fn with(zero: u64, mut value: u64) -> u64 {
    // SAFETY: plain arithmetic on one register.
    unsafe { asm!("{0} ^= {1}", inout(reg) value, in(reg) zero, options(nomem, nostack)) };
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
    let zero = zero();
    Address::from_words(address.words().map(|word| with(zero, u64::from(word)) as u32))
}

/// As [`forget32`], for an end on this host.
#[inline(always)]
pub fn forget_local(local: Local) -> Local {
    let zero = zero();
    let Endpoint { subject, peer, flags } = local.endpoint;
    Local {
        endpoint: Endpoint {
            subject: SubjectId(with(zero, u64::from(subject.0)) as u32),
            peer: PeerId(with(zero, u64::from(peer.0)) as u32),
            flags: with(zero, u64::from(flags)) as u32,
        },
        cgroup: with(zero, local.cgroup),
        anchor: with(zero, local.anchor),
    }
}

/// As [`forget32`], for what was decided.
#[inline(always)]
pub fn forget_outcome(outcome: Outcome) -> Outcome {
    Outcome(forget64(outcome.0))
}
