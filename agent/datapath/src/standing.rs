//! Which generations the kernel holds, and for what.

use bulkhead_common::StateWord;

/// Which slots are in use, and for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) active: Option<u32>,
    /// What is in force from the deadline on, and the deadline in milliseconds of `CLOCK_BOOTTIME`.
    pub(crate) fallback: Option<(u32, u64)>,
    pub(crate) shadow: Option<u32>,
}

impl Standing {
    pub(crate) fn uses(&self, slot: u32) -> bool {
        let fallback = self.fallback.map(|(slot, _)| slot);
        [self.active, fallback, self.shadow].contains(&Some(slot))
    }

    /// With `to` in place of `from`.
    pub(crate) fn replaced(self, from: u32, to: u32) -> Self {
        let replaced = |slot: u32| if slot == from { to } else { slot };
        Self {
            active: self.active.map(replaced),
            fallback: self.fallback.map(|(slot, deadline)| (replaced(slot), deadline)),
            shadow: self.shadow.map(replaced),
        }
    }

    /// What another agent has left in force.
    pub(crate) fn of(word: StateWord) -> Self {
        Self { active: Some(word.slot(0)), fallback: word.fallback(), shadow: word.shadow() }
    }

    pub(crate) fn word(&self) -> StateWord {
        let active = self.active.unwrap_or(0);
        let word = match self.fallback {
            None => StateWord::settled(active),
            Some((previous, deadline)) => StateWord::until(active, previous, deadline),
        };
        self.shadow.map_or(word, |shadow| word.beside(shadow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_agent_reads_what_this_one_has_written() {
        let fallback = Some((1, 60_000));
        for standing in [
            Standing { active: Some(2), ..Standing::default() },
            Standing { active: Some(2), fallback, shadow: None },
            Standing { active: Some(0), fallback, shadow: Some(3) },
        ] {
            assert_eq!(Standing::of(standing.word()), standing);
        }
    }

    #[test]
    fn tables_take_the_place_of_others_in_every_role() {
        let standing = Standing { active: Some(2), fallback: Some((1, 60_000)), shadow: Some(3) };
        assert_eq!(standing.replaced(1, 0).fallback, Some((0, 60_000)));
        assert_eq!(standing.replaced(2, 0).active, Some(0));
        assert_eq!(standing.replaced(3, 0).shadow, Some(0));
        assert!((1..4).all(|slot| standing.uses(slot)) && !standing.uses(0));
    }
}
