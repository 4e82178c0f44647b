// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Sets of numbers as ranges: nodes, ports and addresses alike. Exact, whatever their size: "every IPv6 address but
//! one" is two ranges.

/// Ranges, each by its first and its last number.
pub(super) type Ranges = Vec<(u128, u128)>;

/// Numbers, as ranges (first, last) in rising order that neither overlap nor touch; so equal sets are equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Set(Vec<(u128, u128)>);

impl Set {
    /// The numbers of a range; none if the last is below the first.
    pub fn range(first: u128, last: u128) -> Self {
        Self::of(vec![(first, last)])
    }

    /// One number.
    pub fn one(number: u128) -> Self {
        Self(vec![(number, number)])
    }

    /// The numbers of ranges in any order, which may overlap.
    pub fn of(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        let mut whole: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match whole.last_mut() {
                // Touching is enough: what follows the last number starts the next range.
                Some((_, end)) if end.checked_add(1).is_none_or(|next| first <= next) => {
                    *end = last.max(*end);
                }
                _ => whole.push((first, last)),
            }
        }
        Self(whole)
    }

    /// The ranges.
    pub fn ranges(&self) -> &[(u128, u128)] {
        &self.0
    }

    /// Whether there is no number in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lowest number.
    pub fn first(&self) -> Option<u128> {
        self.0.first().map(|(first, _)| *first)
    }

    /// The only number, if there is exactly one.
    pub fn only(&self) -> Option<u128> {
        match self.0.as_slice() {
            [(first, last)] if first == last => Some(*first),
            _ => None,
        }
    }

    /// Whether a number is in it.
    pub fn contains(&self, number: u128) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= number);
        after
            .checked_sub(1)
            .and_then(|at| self.0.get(at))
            .is_some_and(|(_, last)| number <= *last)
    }

    /// The numbers of both and of either.
    pub fn union(&self, other: &Self) -> Self {
        Self::of([self.0.as_slice(), other.0.as_slice()].concat())
    }

    /// The numbers that are in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.0.as_slice(), other.0.as_slice());
        let mut common = Vec::new();
        while let ([(a_first, a_last), a_rest @ ..], [(b_first, b_last), b_rest @ ..]) = (a, b) {
            let (first, last) = (*a_first.max(b_first), *a_last.min(b_last));
            if first <= last {
                common.push((first, last));
            }
            if a_last < b_last {
                a = a_rest;
            } else {
                b = b_rest;
            }
        }
        // Parts of ranges that do not touch do not touch.
        Self(common)
    }

    /// The numbers that are in this one and not in the other.
    pub fn minus(&self, other: &Self) -> Self {
        let mut gaps = Vec::with_capacity(other.0.len() + 1);
        let mut next = Some(0);
        for (first, last) in &other.0 {
            if let (Some(start), Some(end)) = (next, first.checked_sub(1))
                && start <= end
            {
                gaps.push((start, end));
            }
            next = last.checked_add(1);
        }
        gaps.extend(next.map(|start| (start, u128::MAX)));
        self.intersection(&Self(gaps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set() -> impl Strategy<Value = (Set, Vec<(u128, u128)>)> {
        // Both ends of the numbers, where arithmetic would overflow.
        let number = prop_oneof![0_u128..12, (u128::MAX - 11)..=u128::MAX];
        proptest::collection::vec((number.clone(), number), 0..5)
            .prop_map(|ranges| (Set::of(ranges.clone()), ranges))
    }

    proptest! {
        #[test]
        fn sets_hold_what_their_ranges_hold((a, of_a) in set(), (b, of_b) in set()) {
            let holds = |ranges: &[(u128, u128)], n| ranges.iter().any(|(first, last)| (*first..=*last).contains(&n));
            for n in (0..14).chain((u128::MAX - 13)..=u128::MAX).chain([1 << 64]) {
                let (in_a, in_b) = (holds(&of_a, n), holds(&of_b, n));
                prop_assert_eq!(a.contains(n), in_a);
                prop_assert_eq!(a.union(&b).contains(n), in_a || in_b);
                prop_assert_eq!(a.intersection(&b).contains(n), in_a && in_b);
                prop_assert_eq!(a.minus(&b).contains(n), in_a && !in_b);
            }
            for made in [a.union(&b), a.intersection(&b), a.minus(&b)] {
                prop_assert_eq!(&made, &Set::of(made.ranges().to_vec()), "one spelling of each set");
            }
            prop_assert_eq!(a.minus(&b).union(&a.intersection(&b)), a);
        }
    }
}
