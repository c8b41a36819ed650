//! Medians of interleaved rounds: what disturbs the machine disturbs all that is compared.

use anyhow::Result;

/// Measures all of `stands` in turn, so many times, each round in another order; tells every round's figures, in the
/// order of `stands`.
pub fn interleaved<S, F: Default>(
    rounds: usize,
    stands: &[S],
    mut measure: impl FnMut(&S) -> Result<F>,
) -> Result<Vec<Vec<F>>> {
    (0..rounds)
        .map(|round| {
            let mut figures: Vec<F> = Vec::new();
            figures.resize_with(stands.len(), F::default);
            for step in 0..stands.len() {
                let which = (round + step) % stands.len();
                figures[which] = measure(&stands[which])?;
            }
            Ok(figures)
        })
        .collect()
}

/// The median of one figure of every round.
pub fn median<R>(rounds: &[R], figure: impl Fn(&R) -> f64) -> f64 {
    let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
