use bytemuck::{Pod, Zeroable};

/// How many generations the kernel can hold at once: active, previous, shadow, and one being filled.
pub const SLOTS: u32 = 4;

/// Which generation is in force: active slot, previous slot, shadow and deadline in one 64-bit word, so that one write
/// switches and nothing tears.
///
/// Bits 0–3 active slot, 4–7 previous slot, 8–15 the shadow's slot and 1 (0: there is none), 16–63 deadline in milliseconds
/// of `CLOCK_BOOTTIME` (0: none). From the deadline on the previous slot is in force, with no agent alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct StateWord(pub u64);

impl StateWord {
    /// `active` in force for good.
    pub const fn settled(active: u32) -> Self {
        Self::until(active, active, 0)
    }

    /// `active` in force until `deadline_ms`, then `previous`.
    pub const fn until(active: u32, previous: u32, deadline_ms: u64) -> Self {
        Self((active & 0xf) as u64 | ((previous & 0xf) as u64) << 4 | deadline_ms << 16)
    }

    /// The same, with `shadow` evaluated beside it.
    pub const fn beside(self, shadow: u32) -> Self {
        Self(self.0 & !0xff00 | ((shadow + 1) as u64 & 0xff) << 8)
    }

    /// Milliseconds of `CLOCK_BOOTTIME` until which the active slot is in force, and the slot that is so then; none: no
    /// deadline is armed.
    pub const fn fallback(self) -> Option<(u32, u64)> {
        if self.has_deadline() { Some((self.slot(u64::MAX), self.0 >> 16)) } else { None }
    }

    /// Is a deadline armed? If not, the clock need not be read.
    #[inline(always)]
    pub const fn has_deadline(self) -> bool {
        self.0 >> 16 != 0
    }

    /// Is the deadline yet to come at `now_ms`?
    #[inline(always)]
    pub const fn is_pending(self, now_ms: u64) -> bool {
        now_ms < self.0 >> 16
    }

    /// The slot in force at `now_ms`.
    #[inline(always)]
    pub const fn slot(self, now_ms: u64) -> u32 {
        let fallen_back = self.has_deadline() && !self.is_pending(now_ms);
        // Without a branch: the verifier would follow both.
        (self.0 >> (fallen_back as u64 * 4) & 0xf) as u32
    }

    /// The slot that is evaluated beside the one in force.
    #[inline(always)]
    pub const fn shadow(self) -> Option<u32> {
        match (self.0 >> 8 & 0xff) as u32 {
            0 => None,
            shadow => Some(shadow - 1),
        }
    }
}

/// What holds for a whole generation: one per slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GenerationInfo {
    /// Number of the generation, counted from 1 by the agent; reports carry it.
    pub number: u32,
    /// What its cgroups are, as a number: another one as soon as a cgroup that is there may have become another workload's,
    /// and the same as another generation's if all are the same in both.
    pub places: u32,
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
        assert_eq!((w.fallback(), StateWord::settled(2).fallback()), (Some((1, 60_000)), None));
        assert!(w.is_pending(59_999) && !w.is_pending(60_000));
    }

    #[test]
    fn a_shadow_changes_nothing_else() {
        let w = StateWord::until(2, 1, 60_000);
        assert_eq!((w.shadow(), StateWord::default().shadow()), (None, None));
        let beside = w.beside(0);
        assert_eq!(beside.shadow(), Some(0));
        assert_eq!((beside.slot(59_999), beside.slot(60_000), beside.has_deadline()), (2, 1, true));
        assert_eq!(beside.beside(3).shadow(), Some(3));
    }
}
