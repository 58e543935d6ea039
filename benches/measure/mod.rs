//! Figures of the component benches: trials in turns, medians over rounds.
#![allow(
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a bench reads the clock, and rounds its figures"
)]

use std::time::Instant;

const ROUNDS: usize = 7;

/// A name, and what it came to in one round.
pub type Trial<'a> = (&'a str, &'a mut dyn FnMut() -> f64);

/// How many of `amount` a second `work` does.
pub fn rate(amount: usize, work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    amount as f64 / begun.elapsed().as_secs_f64()
}

/// Prints each trial's median, its range, and its ratio to the first.
pub fn compare(unit: &str, scale: f64, trials: &mut [Trial<'_>]) {
    let mut figures = vec![Vec::new(); trials.len()];
    for _ in 0..ROUNDS {
        for ((_, trial), figures) in trials.iter_mut().zip(&mut figures) {
            figures.push(trial() / scale);
        }
    }
    let mut first = None;
    for ((name, _), figures) in trials.iter().zip(&mut figures) {
        figures.sort_by(f64::total_cmp);
        let (least, median, most) = (figures[0], figures[ROUNDS / 2], figures[ROUNDS - 1]);
        let ratio = median / *first.get_or_insert(median);
        println!("{name:<28} {median:>9.2} {unit} ({least:.2} to {most:.2})  {ratio:.2}");
    }
}
