//! Costs on the wire: decimal text, because floats do not add up (spec/castari.md 3, 15.5).

/// Thousand-millionths of a US dollar as dollars with 6 decimals, rounded half up.
pub(crate) fn usd(nano: u64) -> String {
    let micro = nano / 1000 + u64::from(nano % 1000 >= 500);
    format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::usd;

    #[test]
    fn halves_are_rounded_up() {
        assert_eq!(usd(0), "0.000000");
        assert_eq!(usd(499), "0.000000");
        assert_eq!(usd(500), "0.000001");
        assert_eq!(usd(4_310_000), "0.004310");
        assert_eq!(usd(999_999_500), "1.000000");
        assert_eq!(usd(1_234_567_891_234), "1234.567891");
        assert_eq!(usd(u64::MAX), "18446744073.709552");
    }
}
