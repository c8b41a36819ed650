use bytemuck::{Pod, Zeroable};

use crate::{Address, Command, Event, SubjectId};

/// Whose refusals they are: another program has another one, also within one workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Source {
    /// The subject, see [`Self::owner`].
    pub owner: u64,
    /// Command name of the process.
    pub comm: Command,
    /// User of the process; 0 where no process is known.
    pub uid: u32,
    /// Reserved, 0.
    pub reserved: u32,
}

impl Source {
    /// The subject, or the cgroup of what has no name: cgroups that could not be identified are told apart.
    #[inline(always)]
    pub fn owner(subject: u32, cgroup: u64) -> u64 {
        let named = subject != SubjectId::NONE.0 && subject != SubjectId::UNIDENTIFIED.0;
        if named { u64::from(subject) } else { cgroup | 1 << 63 }
    }
}

/// Key of the table of refusals: what makes two of them one of a kind. Everything is part of it that makes their reports
/// differ in more than the process's id and the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct RefusalKey {
    /// Who was refused.
    pub source: Source,
    /// The other end's address.
    pub address: Address,
    /// The workload at the other end; 0: none.
    pub peer_subject: u32,
    /// Service port in the machine's order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`crate::Direction`] as a number.
    pub direction: u8,
    /// See [`Self::what`].
    pub what: u32,
    /// Number of the generation that refused: in another one the same numbers may stand for others.
    pub generation: u32,
}

impl RefusalKey {
    /// [`crate::Verdict`] and [`crate::Reason`] as numbers, in one word.
    #[inline(always)]
    pub const fn what(verdict: u8, reason: u8) -> u32 {
        verdict as u32 | (reason as u32) << 8
    }
}

impl From<&Event> for RefusalKey {
    fn from(event: &Event) -> Self {
        Self {
            source: Source {
                owner: Source::owner(event.subject, event.cgroup),
                comm: event.comm,
                uid: event.uid,
                reserved: 0,
            },
            address: event.peer_address,
            peer_subject: event.peer_subject,
            port: event.port,
            protocol: event.protocol,
            direction: event.direction,
            what: Self::what(event.verdict, event.reason),
            generation: event.generation,
        }
    }
}

/// Value of the table of refusals. Times are nanoseconds of `CLOCK_BOOTTIME`.
///
/// Only programs write it, and `total` only grows: user space remembers how many it has told of, so nothing that is added
/// while it reads is lost or told twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Refusal {
    /// When the entry was made: tells it from others that the kind had before.
    pub born: u64,
    /// The last record.
    pub reported: u64,
    /// The last refusal.
    pub last: u64,
    /// Refusals since `born`.
    pub total: u64,
}

impl Refusal {
    /// Refusals of one kind make a record at most this often. Whoever looks at the entry this long after a record finds
    /// in `total` all refusals that made none: a later one makes a record of its own.
    pub const INTERVAL_NS: u64 = 1_000_000_000;
}

/// How many kinds somebody has begun in a stretch of time: its number, and the count in the lower 16 bits. One word, for
/// the stack of the programs is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Share(pub u64);

impl Share {
    /// So many kinds a program may begin in a stretch: who scans a network leaves room in the ring buffer, and time to the
    /// agent, for what other programs are refused.
    pub const OF_SOURCE: u64 = 1_024;
    /// So many a workload, under whatever names its programs run.
    pub const OF_SUBJECT: u64 = 2_048;

    /// A stretch is 2³³ nanoseconds, about 8.6 s: each kind may make a record a second, so it is how many there are that
    /// counts. User space replaces the table about as often if more kinds begin than may.
    const STRETCH: u32 = 33;
    const COUNT_BITS: u32 = 16;
    /// How long a stretch is, in nanoseconds.
    pub const STRETCH_NS: u64 = 1 << Self::STRETCH;

    /// The share once another kind has begun, `now` in nanoseconds; none: `most` have begun.
    #[inline(always)]
    pub fn used(self, now: u64, most: u64) -> Option<Self> {
        let empty = now >> Self::STRETCH << Self::COUNT_BITS;
        let used = if self.0 >> Self::COUNT_BITS << Self::COUNT_BITS == empty { self.0 } else { empty };
        if used - empty >= most { None } else { Some(Self(used + 1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_so_many_kinds_a_stretch() {
        let begun = |now: u64, share: &mut Share| {
            (0..5_000).map_while(|_| share.used(now, Share::OF_SOURCE).map(|used| *share = used)).count()
        };
        let mut share = Share::default();
        let stretch = Share::STRETCH_NS;
        assert_eq!(begun(5 * stretch, &mut share), 1_024);
        assert_eq!(begun(6 * stretch - 1, &mut share), 0);
        assert_eq!(begun(6 * stretch, &mut share), 1_024);
    }

    #[test]
    fn an_unnamed_cgroup_is_no_subject() {
        assert_ne!(Source::owner(SubjectId::NONE.0, 7), Source::owner(7, 7));
        assert_eq!(Source::owner(7, 8), Source::owner(7, 9));
    }
}
