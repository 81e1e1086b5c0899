//! How much one instance may take of a bound that all instances of a shard have together.

/// Whether an instance that has `own` of the `all` that are taken may take one more of `max`: while the
/// last quarter is free, any may; of that quarter only those that have less than a quarter of the whole.
pub(crate) fn may_take(own: usize, all: usize, max: usize) -> bool {
    let share = max / 4;
    all < max && (own < share || all < max - share)
}

#[cfg(test)]
mod tests {
    use super::may_take;

    #[test]
    fn the_last_quarter_is_for_those_that_have_little() {
        assert!(may_take(74, 74, 100));
        assert!(!may_take(75, 75, 100));
        assert!(may_take(0, 75, 100));
        assert!(may_take(24, 99, 100));
        assert!(!may_take(25, 99, 100));
        assert!(!may_take(0, 100, 100));
    }
}
