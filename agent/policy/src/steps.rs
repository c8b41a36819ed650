//! A value for every number: what nested ranges say, without overlaps.

/// From each start on, up to the next, one value holds. The first start is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Steps<T> {
    starts: Vec<(u128, T)>,
}

impl<T: Copy + PartialEq> Steps<T> {
    /// `around` everywhere but in `ranges` (first number, last number, value). They are sorted by their first number,
    /// the wider first, and either nested or apart; the innermost counts.
    pub(crate) fn new(around: T, ranges: impl IntoIterator<Item = (u128, u128, T)>) -> Self {
        let mut steps = Self { starts: Vec::new() };
        steps.start(0, around);
        let mut open: Vec<(u128, T)> = Vec::new();
        for (first, last, value) in ranges {
            steps.close(&mut open, Some(first), around);
            steps.start(first, value);
            open.push((last, value));
        }
        steps.close(&mut open, None, around);
        steps
    }

    /// The value that holds at `number`.
    pub(crate) fn at(&self, number: u128) -> T {
        let after = self.starts.partition_point(|(first, _)| *first <= number);
        self.starts[after - 1].1
    }

    /// The values of both, put together.
    pub(crate) fn with<U: Copy + PartialEq, V: Copy + PartialEq>(
        &self,
        other: &Steps<U>,
        together: impl Fn(T, U) -> V,
    ) -> Steps<V> {
        let mut steps = Steps { starts: Vec::new() };
        let (mut a, mut b) = (0, 0);
        loop {
            let start = self.starts[a].0.max(other.starts[b].0);
            steps.start(start, together(self.starts[a].1, other.starts[b].1));
            let next = |starts: Option<&(u128, _)>| starts.map(|s| s.0);
            match (next(self.starts.get(a + 1)), other.starts.get(b + 1).map(|s| s.0)) {
                (None, None) => return steps,
                (Some(x), Some(y)) if x == y => (a, b) = (a + 1, b + 1),
                (Some(x), y) if y.is_none_or(|y| x < y) => a += 1,
                _ => b += 1,
            }
        }
    }

    /// Every step with its first and last number; `end` is the last number of all.
    pub(crate) fn ranges(&self, end: u128) -> impl Iterator<Item = (u128, u128, T)> {
        let nexts = self.starts.iter().skip(1).map(|(first, _)| first - 1).chain([end]);
        // What comes after a range that ends with the last number of all is nothing.
        let ranges = self.starts.iter().zip(nexts).map(|((first, value), last)| (*first, last, *value));
        ranges.take_while(move |(first, ..)| *first <= end)
    }

    fn start(&mut self, first: u128, value: T) {
        // A range that begins where the one around it does replaces it.
        if self.starts.last().is_some_and(|(at, _)| *at == first) {
            self.starts.pop();
        }
        if self.starts.last().is_none_or(|(_, before)| *before != value) {
            self.starts.push((first, value));
        }
    }

    /// Ends the open ranges that lie before `next`: what is around them goes on.
    fn close(&mut self, open: &mut Vec<(u128, T)>, next: Option<u128>, around: T) {
        while let Some((last, _)) = open.last().copied() {
            if next.is_some_and(|next| next <= last) {
                return;
            }
            open.pop();
            if let Some(after) = last.checked_add(1) {
                self.start(after, open.last().map_or(around, |(_, value)| *value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_range_counts_and_what_is_around_it_goes_on() {
        let steps =
            Steps::new('-', [(10, 99, 'a'), (10, 19, 'b'), (30, 39, 'c'), (35, 35, 'd'), (100, 199, 'e')]);
        let values: String =
            [0, 9, 10, 19, 20, 30, 35, 36, 39, 40, 99, 100, 199, 200].map(|n| steps.at(n)).iter().collect();
        assert_eq!(values, "--bbacdccaaee-");
    }

    #[test]
    fn the_last_number_of_all_may_be_in_a_range() {
        let steps = Steps::new(0, [(0, u128::MAX, 1), (u128::MAX, u128::MAX, 2)]);
        assert_eq!((steps.at(0), steps.at(u128::MAX - 1), steps.at(u128::MAX)), (1, 1, 2));
    }

    #[test]
    fn nothing_comes_after_the_last_number() {
        let steps = Steps::new(0, [(0, 9, 1)]);
        assert_eq!(steps.ranges(9).collect::<Vec<_>>(), [(0, 9, 1)]);
    }

    #[test]
    fn two_are_put_together_step_by_step() {
        let a = Steps::new(0, [(2, 5, 1)]);
        let b = Steps::new(0, [(4, 9, 2)]);
        let both: Vec<_> = a.with(&b, |x, y| x + y).ranges(20).collect();
        assert_eq!(both, [(0, 1, 0), (2, 3, 1), (4, 5, 3), (6, 9, 2), (10, 20, 0)]);
    }
}
