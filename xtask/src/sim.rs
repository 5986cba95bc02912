//! `cargo xtask sim`: the agent's simulator on many seeds, or on one with a trace.

use crate::options::numbers;
use crate::{Failure, cargo};

/// How many seeds are tried unless the command line says otherwise: some minutes' worth.
const SEEDS: u64 = 20_000;

/// Builds the simulator optimised and runs it; a failure if a promise is broken in any seed.
pub(crate) fn run(options: &[String]) -> Result<(), Failure> {
    let arguments = "test --profile sim --package auditail --test sim -- --nocapture --exact seeds";
    cargo::cargo_with(&arguments.split(' ').collect::<Vec<_>>(), &environment(options)?)
}

/// The variables that tell the simulator what to try.
fn environment(options: &[String]) -> Result<Vec<(&'static str, String)>, Failure> {
    let (mut seed, mut seeds, mut first) = (None, None, None);
    numbers("sim", options, &mut [("--seed", 0, &mut seed), ("--seeds", 1, &mut seeds), ("--first", 0, &mut first)])?;
    Ok(match seed {
        Some(_) if seeds.is_some() || first.is_some() => return Err("--seed stands alone: it replays one seed".into()),
        Some(seed) => vec![("AUDITAIL_SIM_SEED", seed.to_string())],
        None => vec![
            ("AUDITAIL_SIM_SEEDS", seeds.unwrap_or(SEEDS).to_string()),
            ("AUDITAIL_SIM_FIRST", first.unwrap_or(0).to_string()),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(options: &[&str]) -> Result<Vec<(&'static str, String)>, String> {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        environment(&options).map_err(|failure| failure.to_string())
    }

    // Fails if an option does not reach the simulator: it would try its few default seeds and pass.
    #[test]
    fn options_become_variables() {
        let range = vec![("AUDITAIL_SIM_SEEDS", "7".to_owned()), ("AUDITAIL_SIM_FIRST", "500".to_owned())];
        assert_eq!(told(&["--seeds", "7", "--first=500"]), Ok(range));
        assert_eq!(told(&["--seed", "973"]), Ok(vec![("AUDITAIL_SIM_SEED", "973".to_owned())]));
    }

    // Fails if what was meant is guessed: a replay with a range beside it, a misspelt option, no seeds at all.
    #[test]
    fn nonsense_is_refused() {
        for options in [&["--seed", "1", "--seeds", "5"][..], &["--sead", "1"], &["--seeds", "0"], &["--seed"]] {
            assert!(told(options).is_err(), "{options:?}");
        }
    }
}
