//! Passages of lines that were read before.

use super::cursor::Cursor;

/// Passages of one kind, of at most `LONGEST` bytes, and what each of them says. A passage is remembered when it comes
/// twice and none came in between that shares its place: then those that never come again cost little, however many
/// they are. Of those at one place the last one is remembered, so that no file makes it grow.
#[derive(Debug)]
pub(super) struct Memo<V, const LONGEST: usize> {
    /// By place, of which there are a power of two. They tell most passages that are not remembered without a look at
    /// the slots, which do not all stay in a processor's own cache.
    marks: Box<[Marks]>,
    slots: Box<[Slot<V, LONGEST>]>,
}

/// What passages look like where they are sampled.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    /// The one that is remembered; 0: none is.
    remembered: u32,
    /// The last one that was not.
    missed: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot<V, const LONGEST: usize> {
    passage: [u8; LONGEST],
    length: u8,
    /// None: nothing is remembered yet.
    value: Option<V>,
}

/// Where in what is left of a line the words of eight bytes begin that tell passages of a kind apart.
pub(super) type Samples = [usize; 4];

/// How much of a line is sampled. A passage nearer to its end is not remembered.
const SAMPLED: usize = 96;

impl<V: Copy, const LONGEST: usize> Memo<V, LONGEST> {
    pub(super) fn new(slots: usize) -> Self {
        const { assert!(LONGEST <= u8::MAX as usize) };
        assert!(slots.is_power_of_two());
        let empty = Slot { passage: [0; LONGEST], length: 0, value: None };
        Self { marks: vec![Marks::default(); slots].into(), slots: vec![empty; slots].into() }
    }

    /// Passes what `read` does, and tells what it says and the number under which it is remembered. `read` looks at
    /// nothing but what it passes.
    #[inline(always)]
    pub(super) fn pass<'l>(
        &mut self,
        at: &mut Cursor<'l>,
        samples: Samples,
        read: impl FnOnce(&mut Cursor<'l>) -> Option<V>,
    ) -> Option<(V, Option<usize>)> {
        let Some(ahead) = at.rest.first_chunk() else { return Some((read(at)?, None)) };
        let mark = mark(ahead, samples);
        // There are as many places as the mask allows for.
        let number = (mark >> 8) as usize & (self.marks.len() - 1);
        let marks = &mut self.marks[number];
        if marks.remembered == mark
            && let slot = &self.slots[number]
            && let Some(value) = slot.value
            && let Some(rest) = at.rest.strip_prefix(slot.passage.get(..slot.length.into())?)
        {
            at.rest = rest;
            return Some((value, Some(number)));
        }
        let is_again = marks.missed == mark;
        marks.missed = mark;
        let before = at.rest;
        let value = read(at)?;
        if !is_again {
            return Some((value, None));
        }
        marks.remembered = mark;
        let passage = &before[..before.len() - at.rest.len()];
        Some((value, self.slots[number].learn(passage, value).then_some(number)))
    }

    /// What is remembered under this number.
    #[inline(always)]
    pub(super) fn value(&mut self, number: usize) -> Option<&mut V> {
        self.slots.get_mut(number)?.value.as_mut()
    }
}

/// What a passage looks like where it is sampled; never 0.
#[inline(always)]
fn mark(text: &[u8; SAMPLED], [a, b, c, d]: Samples) -> u32 {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| text[at + n]));
    // By any odd numbers whose bits are mixed: then every bit of a sample moves the high half.
    let hash = word(a).wrapping_mul(0x5851_f42d_4c95_7f2d)
        ^ word(b).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ word(c).wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
        ^ word(d).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (hash >> 32) as u32 | 1
}

impl<V, const LONGEST: usize> Slot<V, LONGEST> {
    /// Remembers this passage instead of another, unless it is too long.
    #[inline(never)]
    fn learn(&mut self, passage: &[u8], value: V) -> bool {
        let (Ok(length), Some(own)) = (u8::try_from(passage.len()), self.passage.get_mut(..passage.len()))
        else {
            return false;
        };
        own.copy_from_slice(passage);
        (self.length, self.value) = (length, Some(value));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: Samples = [0, 8, 16, 24];

    /// Passes the first comma, and says how long that is.
    fn to_comma(at: &mut Cursor<'_>) -> Option<usize> {
        let length = at.rest.iter().position(|b| *b == b',')? + 1;
        at.rest = &at.rest[length..];
        Some(length)
    }

    /// What is said of a line that begins with this passage and a comma, and under which number that is remembered.
    fn pass(memo: &mut Memo<usize, 40>, passage: &str) -> (usize, Option<usize>) {
        let line = format!("{passage},{}", "-".repeat(SAMPLED));
        let at = &mut Cursor::new(line.as_bytes());
        let passed = memo.pass(at, SAMPLES, to_comma).unwrap();
        assert_eq!(at.rest.len(), SAMPLED, "{passage}");
        passed
    }

    #[test]
    fn what_comes_again_is_not_read_again() {
        let mut memo = Memo::new(8);
        assert_eq!(pass(&mut memo, "one"), (4, None), "it may never come again");
        let (4, Some(number)) = pass(&mut memo, "one") else { panic!("not remembered") };
        *memo.value(number).unwrap() = 1_000;
        assert_eq!(pass(&mut memo, "one"), (1_000, Some(number)));
    }

    #[test]
    fn of_two_that_look_alike_the_last_one_is_remembered() {
        let alike = ["x".repeat(32) + "one", "x".repeat(32) + "three"];
        let mut memo = Memo::new(8);
        assert_eq!(pass(&mut memo, &alike[1]), (38, None));
        for _ in 0..2 {
            for passage in &alike {
                let (length, number) = pass(&mut memo, passage);
                assert_eq!(length, passage.len() + 1);
                // What was noted of the other is forgotten.
                *memo.value(number.unwrap()).unwrap() = 1_000;
            }
        }
        // One that another one begins with is another.
        assert_eq!(pass(&mut memo, &alike[1][..34]).0, 35);
        assert_eq!(memo.slots.len(), 8);
    }

    #[test]
    fn too_long_ones_and_those_near_the_end_of_a_line_are_read_each_time() {
        let mut memo = Memo::new(8);
        for _ in 0..2 {
            assert_eq!(pass(&mut memo, &"x".repeat(40)), (41, None));
            assert_eq!(pass(&mut memo, &"x".repeat(300)), (301, None));
        }
        assert!(pass(&mut memo, &"x".repeat(39)).1.is_some());
        let near_end = [b"one,", &[b'-'; SAMPLED - 5][..]].concat();
        assert_eq!(memo.pass(&mut Cursor::new(&near_end), SAMPLES, to_comma), Some((4, None)));
        assert_eq!(memo.pass(&mut Cursor::new(b"none"), SAMPLES, to_comma), None);
    }
}
