use bytemuck::{Pod, Zeroable};

/// How many generations the kernel can hold at once: active, previous, shadow, and one being filled.
pub const SLOTS: u32 = 4;

/// Which generation is in force: active slot, previous slot and deadline in one 64-bit word, so that one write
/// switches and nothing tears.
///
/// Bits 0–7 active slot, 8–15 previous slot, 16–63 deadline in milliseconds of `CLOCK_BOOTTIME` (0: none). From the
/// deadline on the previous slot is in force, with no agent alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct StateWord(pub u64);

impl StateWord {
    /// `active` in force for good.
    pub const fn settled(active: u32) -> Self {
        Self((active & 0xff) as u64 | ((active & 0xff) as u64) << 8)
    }

    /// `active` in force until `deadline_ms`, then `previous`.
    pub const fn until(active: u32, previous: u32, deadline_ms: u64) -> Self {
        Self((active & 0xff) as u64 | ((previous & 0xff) as u64) << 8 | deadline_ms << 16)
    }

    /// Is a deadline armed? If not, the clock need not be read.
    #[inline(always)]
    pub const fn has_deadline(self) -> bool {
        self.0 >> 16 != 0
    }

    /// The slot in force at `now_ms`.
    #[inline(always)]
    pub const fn slot(self, now_ms: u64) -> u32 {
        let deadline = self.0 >> 16;
        if deadline != 0 && now_ms >= deadline {
            ((self.0 >> 8) & 0xff) as u32
        } else {
            (self.0 & 0xff) as u32
        }
    }
}

/// What holds for a whole generation: one per slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GenerationInfo {
    /// Number of the generation, counted from 1 by the agent; reports carry it.
    pub number: u32,
    /// Reserved, 0.
    pub flags: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_settled_word_ignores_the_clock() {
        let w = StateWord::settled(3);
        assert!(!w.has_deadline());
        assert_eq!((w.slot(0), w.slot(u64::MAX)), (3, 3));
    }

    #[test]
    fn the_previous_slot_is_back_from_the_deadline_on() {
        let w = StateWord::until(2, 1, 60_000);
        assert!(w.has_deadline());
        assert_eq!((w.slot(59_999), w.slot(60_000), w.slot(60_001)), (2, 1, 1));
    }
}
