//! What the origin must bring at least, whatever anybody does: computed from the schedule alone.

use fixedbitset::FixedBitSet;

/// A viewer's start takes so long in the bound's schedule, s.
pub const DELAY_S: f64 = 3.0;
/// So long after it joined a peer can hold a piece at the earliest, s.
const FIRST_PIECE_S: f64 = 0.2;
/// The grain of the film, s.
const GRAIN_S: f64 = 0.1;
/// The grain of the time, s.
const STEP_S: f64 = 1.0;

/// Times in s since the run began, positions in s of the film.
#[derive(Clone, Debug)]
pub struct Member {
    pub joins: f64,
    pub leaves: f64,
    /// Of the bitrate.
    pub upload: f64,
    pub seeds: bool,
    pub plays: Vec<Play>,
}

#[derive(Clone, Copy, Debug)]
pub struct Play {
    pub opens: f64,
    pub closes: f64,
    pub from: f64,
}

/// In copies of the film. `start_s`: what a player holds when it begins.
pub fn copies(length_s: f64, start_s: f64, members: &[Member]) -> f64 {
    let grains = (length_s / GRAIN_S).ceil() as usize;
    let seeded = members.iter().any(|member| member.seeds);
    let viewers = members.iter().filter(|member| !member.seeds);
    let end = viewers.map(|member| member.leaves).fold(0.0, f64::max);
    let mut bound = 0.0_f64;
    let mut time = STEP_S;
    while time <= end + STEP_S {
        let mut unique = FixedBitSet::with_capacity(grains);
        let (mut due, mut given) = (0, 0.0);
        for member in members {
            let here = (time.min(member.leaves) - member.joins - FIRST_PIECE_S).max(0.0);
            given += member.upload * here;
            let mut own = FixedBitSet::with_capacity(grains);
            for play in &member.plays {
                let plays = time.min(play.closes) - play.opens - DELAY_S;
                if plays >= 0.0 {
                    let to = (play.from + start_s + plays).min(length_s);
                    let grain = |at: f64| ((at / GRAIN_S) as usize).min(grains);
                    own.insert_range(grain(play.from)..grain(to).max(grain(play.from)));
                }
            }
            due += own.count_ones(..);
            unique.union_with(&own);
        }
        let unique = if seeded { 0 } else { unique.count_ones(..) };
        let lacks = due as f64 * GRAIN_S - given;
        bound = bound.max(unique as f64 * GRAIN_S).max(lacks);
        time += STEP_S;
    }
    bound / length_s
}
